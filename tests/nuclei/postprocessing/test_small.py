import numpy as np
import pytest

from nuclei.postprocessing import bands
from nuclei.postprocessing.small import leave_out_small


@pytest.mark.parametrize("band_px", [3, 2**22])
def test_small_nuclei_are_left_out_and_the_others_numbered_in_order(
    monkeypatch: pytest.MonkeyPatch, band_px: int
) -> None:
    monkeypatch.setattr(bands, "BAND_PX", band_px)
    labels = np.array([[1, 1, 2, 0], [1, 0, 3, 3], [4, 4, 4, 3]], np.uint32)
    kept = leave_out_small(labels, 5, 3)
    assert kept.tolist() == [0, 2, 3]  # 2 has one pixel, and 5 none
    assert labels.tolist() == [[1, 1, 0, 0], [1, 0, 2, 2], [3, 3, 3, 2]]


def test_nuclei_without_pixels_are_always_left_out() -> None:
    labels = np.array([[0, 3], [1, 0]], np.uint32)
    assert leave_out_small(labels, 3, 0).tolist() == [0, 2]
    assert labels.tolist() == [[0, 2], [1, 0]]
    assert leave_out_small(labels, 2, 0).tolist() == [0, 1]


def test_nothing_is_left_out_of_nothing() -> None:
    labels = np.zeros((3, 4), np.uint32)
    assert len(leave_out_small(labels, 0, 5)) == 0
    assert not labels.any()
