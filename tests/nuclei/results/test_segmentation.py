"""The result of a frame."""

import numpy as np
import pytest

from nuclei.errors import InvalidOption
from nuclei.postprocessing.measurement import measure
from nuclei.results.segmentation import Segmentation


def test_a_printed_result_is_one_line() -> None:
    labels = np.zeros((50, 60), np.uint32)
    labels[10:20, 10:20] = 1
    nuclei = measure(labels, np.zeros((50, 60, 1), np.uint8), np.zeros((50, 60), np.uint8))
    found = Segmentation(labels, nuclei, None, "unet", "3")
    assert repr(found) == "<Segmentation: 1 nuclei by unet 3>"


def of_three() -> Segmentation:
    labels = np.zeros((10, 30), np.uint32)
    for label in (1, 2, 3):
        labels[2:8, 10 * label - 8 : 10 * label - 2] = label
    nuclei = measure(labels, np.zeros((10, 30, 1), np.uint8), np.zeros((10, 30), np.uint8))
    outlines = [(label, [np.zeros((4, 2), np.int32)]) for label in (1, 2, 3)]
    stage = np.arange(6, dtype=np.float64).reshape(3, 2)
    return Segmentation(
        labels, nuclei, None, "unet", "3", outlines=outlines, centroids_stage_um=stage
    )


def test_discarded_nuclei_leave_the_others_as_they_are() -> None:
    found = of_three()
    kept = found.without([(2, 2)])
    assert kept.nuclei.label.tolist() == [1, 3]
    np.testing.assert_array_equal(kept.labels, np.where(found.labels == 2, 0, found.labels))
    np.testing.assert_array_equal(kept.nuclei.box_px, found.nuclei.box_px[[0, 2]])
    assert [label for label, _ in kept.outlines] == [1, 3]
    np.testing.assert_array_equal(kept.centroids_stage_um, found.centroids_stage_um[[0, 2]])
    assert kept.warnings == ("1 of 3 nuclei were left out, as `discard` says",)
    assert found.labels.max() == 3
    assert found.without([]) is found
    assert len(found.without([(1, 3)]).nuclei) == 0


@pytest.mark.parametrize("labels", [(4, 4), (2, 5), (3, 2)])
def test_nuclei_that_are_not_there_cannot_be_discarded(labels: tuple[int, int]) -> None:
    with pytest.raises(InvalidOption, match="of the same frame"):
        of_three().without([labels])
