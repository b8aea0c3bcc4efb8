"""The result of a frame."""

import time

import numpy as np
import pytest

from nuclei.errors import InvalidOption
from nuclei.postprocessing.measurement import measure
from nuclei.results.nuclei import Nuclei
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


@pytest.mark.parametrize(
    ("labels", "named"), [((4, 4), "nucleus 4,"), ((2, 5), "nuclei 2 to 5"), ((3, 2), "3 to 2")]
)
def test_nuclei_that_are_not_there_cannot_be_discarded(labels: tuple[int, int], named: str) -> None:
    with pytest.raises(InvalidOption, match=f"{named}.*of 3 .*of the same frame"):
        of_three().without([(1, 1), labels])


def test_ranges_may_overlap_and_have_any_order() -> None:
    kept = of_three().without([(3, 3), (2, 3), (3, 3)])
    assert kept.nuclei.label.tolist() == [1]


def test_many_are_discarded_one_by_one_at_once() -> None:
    """A look at all nuclei for each of them would take minutes."""
    rows = np.zeros(400_000, np.float32)
    label = np.arange(1, len(rows) + 1, dtype=np.uint32)
    nuclei = Nuclei(label, rows, rows, rows, rows, rows, rows)
    every_second = [(first, first) for first in range(1, len(label), 2)]
    many = Segmentation(label.reshape(1, -1), nuclei, None, "unet", "3")
    started = time.process_time()
    kept = many.without(every_second)
    assert time.process_time() - started < 10
    np.testing.assert_array_equal(kept.nuclei.label, label[1::2])
