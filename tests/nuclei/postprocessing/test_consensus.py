"""Two segmentations of a frame, joined by vote."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.postprocessing.consensus import consensus

SHAPE = (40, 60)
Segmented = tuple[np.ndarray, np.ndarray]


def segmented(*nuclei: tuple[int, int, int, int, float]) -> Segmented:
    """Rectangles (top, left, bottom, right) and their scores."""
    labels = np.zeros(SHAPE, np.uint32)
    for number, (top, left, bottom, right, _) in enumerate(nuclei, start=1):
        labels[top:bottom, left:right] = number
    return labels, np.array([nucleus[-1] for nucleus in nuclei], np.float32)


def voted(first: Segmented, second: Segmented, min_score: float = 0.4) -> Segmented:
    return consensus(first, second, min_score, overlap=0.4, min_area_px=1)


def test_what_both_see_has_the_outline_of_the_first_and_the_mean_of_the_scores() -> None:
    first, second = segmented((5, 5, 15, 15, 0.8)), segmented((5, 6, 15, 17, 0.6))
    labels, scores = voted(first, second)
    np.testing.assert_array_equal(labels, first[0])
    assert scores.tolist() == pytest.approx([0.7])


@pytest.mark.parametrize(("score", "count"), [(0.9, 1), (0.7, 0)])
def test_what_only_one_sees_is_kept_if_its_score_is_high(score: float, count: int) -> None:
    alone, nothing = segmented((5, 5, 15, 15, score)), segmented()
    for pair in ((alone, nothing), (nothing, alone)):
        labels, scores = voted(*pair)
        assert labels.max() == len(scores) == count


def test_two_are_two_where_the_higher_score_says_so() -> None:
    one = (5, 5, 15, 25)
    halves = (5, 5, 15, 15), (5, 16, 15, 25)
    two = segmented(*((*half, 0.95) for half in halves))
    assert voted(segmented((*one, 0.9)), two)[0].max() == 2
    assert voted(segmented((*one, 0.99)), two)[0].max() == 1


def test_a_nucleus_keeps_the_pixels_that_are_free() -> None:
    first, second = segmented((5, 5, 15, 15, 0.9)), segmented((5, 12, 15, 22, 0.85))
    labels, _ = voted(first, second)
    assert (labels[5:15, 5:15] == 1).all()
    assert (labels[5:15, 15:22] == 2).all()


def test_two_empty_segmentations_give_no_nuclei() -> None:
    labels, scores = voted(segmented(), segmented())
    assert not labels.any()
    assert len(scores) == 0


@given(st.integers(0, 2**32 - 1))
def test_labels_have_no_gaps_and_votes_fall(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def some() -> Segmented:
        corners = rng.integers(0, (30, 50), (6, 2))
        boxes = [
            (*corner, *(corner + 8), score)
            for corner, score in zip(corners, rng.random(6), strict=True)
        ]
        labels, scores = segmented(*boxes)
        found, numbers = np.unique(labels, return_inverse=True)
        return numbers.reshape(SHAPE).astype(np.uint32), scores[found[found > 0] - 1]

    labels, scores = voted(some(), some(), min_score=0.2)
    assert np.unique(labels[labels > 0]).tolist() == list(range(1, len(scores) + 1))
    assert (np.diff(scores) <= 0).all()
    assert (scores >= 0.2).all()
