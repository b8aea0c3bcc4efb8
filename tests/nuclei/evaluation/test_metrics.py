import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from stardist import matching as stardist

from nuclei.errors import InvalidData
from nuclei.evaluation.metrics import DSB_THRESHOLDS, Overlap, average_precision, score_image

Labels = NDArray[np.uint16]
SHAPES = st.tuples(st.integers(1, 10), st.integers(1, 10))
RATIOS = [
    "dsb_score",
    "f1_0.50",
    "f1_0.75",
    "precision_0.50",
    "recall_0.50",
    "pq",
    "mean_iou",
    "dice",
    "boundary_f1",
    "pixel_accuracy",
    *(f"ap_{threshold:.2f}" for threshold in DSB_THRESHOLDS),
]


def label_images(shape: tuple[int, int]) -> st.SearchStrategy[Labels]:
    return arrays.arrays(np.uint16, shape, elements=st.integers(0, 4))


PAIRS = SHAPES.flatmap(lambda shape: st.tuples(label_images(shape), label_images(shape)))


def rows(*nuclei: slice, label_step: int = 1) -> Labels:
    """One row of 100 pixels with a nucleus in each slice."""
    labels = np.zeros((1, 100), np.uint16)
    for label, where in enumerate(nuclei, start=1):
        labels[0, where] = label * label_step
    return labels


def test_by_hand_one_nucleus_at_iou_8_of_12() -> None:
    scores = score_image(rows(slice(0, 10)), rows(slice(2, 12)))
    iou = 8 / 12
    assert scores["mean_iou"] == pytest.approx(iou)
    assert scores["ap_0.65"] == 1
    assert scores["ap_0.70"] == 0
    assert scores["dsb_score"] == pytest.approx(4 / 10)  # .50 .55 .60 .65
    assert scores["f1_0.50"] == 1
    assert scores["f1_0.75"] == 0
    assert scores["pq"] == pytest.approx(iou)
    assert scores["dice"] == pytest.approx(2 * 8 / 20)
    # True outline at 9 (the edge of the image is none), predicted ones at 2 and 11.
    assert scores["boundary_f1"] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_by_hand_hit_miss_and_extra() -> None:
    truth = rows(slice(0, 10), slice(20, 30), slice(40, 50))
    predicted = rows(slice(0, 10), slice(60, 70))
    scores = score_image(truth, predicted)
    assert scores["n_true"] == 3
    assert scores["n_predicted"] == 2
    assert scores["ap_0.50"] == pytest.approx(1 / 4)
    assert scores["dsb_score"] == pytest.approx(1 / 4)
    assert scores["precision_0.50"] == pytest.approx(1 / 2)
    assert scores["recall_0.50"] == pytest.approx(1 / 3)
    assert scores["f1_0.50"] == pytest.approx(2 / 5)
    assert scores["pq"] == pytest.approx(1 / (1 + 0.5 + 1))
    assert scores["mean_iou"] == pytest.approx(1 / 3)
    assert scores["dice"] == pytest.approx(2 * 10 / 50)


def test_by_hand_two_nuclei_merged_into_one() -> None:
    scores = score_image(rows(slice(0, 10), slice(10, 16)), rows(slice(0, 16)))
    assert scores["ap_0.50"] == pytest.approx(1 / 2)
    assert scores["ap_0.65"] == 0  # the larger one is at 10 / 16 = 0.625
    assert scores["mean_iou"] == pytest.approx((10 / 16 + 6 / 16) / 2)
    assert scores["dice"] == 1


def errors(truth: Labels, predicted: Labels) -> tuple[float, ...]:
    scores = score_image(truth, predicted)
    return tuple(scores[name] for name in ("missed", "extra", "merged", "split"))


def test_errors_by_hand() -> None:
    assert errors(rows(slice(0, 10)), rows(slice(0, 9))) == (0, 0, 0, 0)
    assert errors(rows(slice(0, 10)), rows(slice(50, 60))) == (1, 1, 0, 0)
    assert errors(rows(slice(0, 10)), rows(slice(8, 18))) == (1, 1, 0, 0)
    # A small nucleus beside a large one: the large one is still matched.
    assert errors(rows(slice(0, 20), slice(20, 23)), rows(slice(0, 23))) == (0, 0, 1, 0)
    assert errors(rows(slice(0, 23)), rows(slice(0, 20), slice(20, 23))) == (0, 0, 0, 1)
    # One prediction over three nuclei is one merge, and matches none of them.
    three = rows(slice(0, 10), slice(10, 20), slice(20, 30))
    assert errors(three, rows(slice(0, 30))) == (0, 0, 1, 0)
    # Exactly half inside does not count as most of it.
    assert errors(rows(slice(0, 10), slice(10, 20)), rows(slice(5, 15))) == (2, 1, 0, 0)


@given(PAIRS)
def test_errors_swap_with_the_images(pair: tuple[Labels, Labels]) -> None:
    missed, extra, merged, split = errors(*pair)
    assert errors(*pair[::-1]) == (extra, missed, split, merged)


@given(PAIRS)
def test_a_nucleus_is_matched_or_part_of_an_error(pair: tuple[Labels, Labels]) -> None:
    overlap = Overlap.of(*pair)
    matched = (overlap.iou > 0.5).any(axis=1)
    assert (matched | overlap.missed | overlap.merged | overlap.split).all()
    assert not (matched & overlap.missed).any()


def test_counts_and_pixels() -> None:
    scores = score_image(rows(slice(0, 10), slice(20, 30)), rows(slice(0, 15)))
    assert scores["count_error"] == 1
    assert scores["pixel_accuracy"] == pytest.approx(1 - 15 / 100)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_agrees_with_stardist(threshold: float) -> None:
    rng = np.random.default_rng(int(threshold * 10))
    truth, predicted = np.zeros((2, 200, 200), np.uint16)
    for label in range(1, 40):
        y, x, height, width = rng.integers((0, 0, 5, 5), (180, 180, 30, 30))
        truth[y : y + height, x : x + width] = label
        dy, dx = rng.integers(-2, 3, 2)
        if rng.random() < 0.8:
            predicted[max(y + dy, 0) : y + dy + height, max(x + dx, 0) : x + dx + width] = label
    # StarDist matches at the threshold or above it, ours only above it.
    theirs = stardist.matching(truth, predicted, thresh=np.nextafter(threshold, 1))
    overlap = Overlap.of(truth, predicted)
    assert overlap.counts(threshold) == (theirs.tp, theirs.fp, theirs.fn)
    assert theirs.tp > 3
    assert overlap.average_precision(threshold) == pytest.approx(theirs.accuracy)
    assert overlap.f1(threshold) == pytest.approx(theirs.f1)
    assert overlap.precision(threshold) == pytest.approx(theirs.precision)
    assert overlap.recall(threshold) == pytest.approx(theirs.recall)
    if threshold == 0.5:
        assert overlap.panoptic_quality() == pytest.approx(theirs.panoptic_quality)


def test_an_iou_equal_to_the_threshold_is_no_match() -> None:
    overlap = Overlap.of(rows(slice(0, 20)), rows(slice(0, 10)))
    assert overlap.counts(0.5) == (0, 1, 1)


def test_two_empty_images_are_a_perfect_match() -> None:
    scores = score_image(rows(), rows())
    assert all(scores[name] == 1 for name in RATIOS)


@pytest.mark.parametrize("case", ["nothing found", "nothing there"])
def test_one_empty_image_scores_zero(case: str) -> None:
    pair = (rows(slice(0, 10)), rows())
    scores = score_image(*(pair if case == "nothing found" else pair[::-1]))
    for name in ("dsb_score", "f1_0.50", "pq", "mean_iou", "dice"):
        assert scores[name] == 0


@given(SHAPES.flatmap(label_images))
def test_identity_is_perfect(labels: Labels) -> None:
    scores = score_image(labels, labels)
    assert {name: scores[name] for name in RATIOS} == dict.fromkeys(RATIOS, 1.0)


@given(PAIRS)
def test_scores_lie_between_zero_and_one(pair: tuple[Labels, Labels]) -> None:
    scores = score_image(*pair)
    assert all(0 <= scores[name] <= 1 for name in RATIOS)
    falling = [scores[f"ap_{threshold:.2f}"] for threshold in DSB_THRESHOLDS]
    assert falling == sorted(falling, reverse=True)
    assert scores["dsb_score"] == pytest.approx(np.mean(falling))


@given(PAIRS, st.sampled_from(DSB_THRESHOLDS))
def test_counts_are_symmetric(pair: tuple[Labels, Labels], threshold: float) -> None:
    hits, extra, missed = Overlap.of(*pair).counts(threshold)
    assert Overlap.of(*pair[::-1]).counts(threshold) == (hits, missed, extra)
    assert hits + missed == len(np.setdiff1d(pair[0], [0]))
    assert hits + extra == len(np.setdiff1d(pair[1], [0]))


@given(PAIRS, st.permutations([1, 2, 3, 4]), st.integers(1, 1000))
def test_numbering_of_labels_changes_nothing(
    pair: tuple[Labels, Labels], order: list[int], step: int
) -> None:
    truth, predicted = pair
    renumbered = np.array([0, *order], np.uint32)[predicted] * step
    scores = score_image(truth, renumbered)
    assert scores == pytest.approx(score_image(truth, predicted))


@given(PAIRS)
def test_turning_both_images_changes_nothing(pair: tuple[Labels, Labels]) -> None:
    turned = (np.rot90(pair[0]), np.rot90(pair[1]))
    assert score_image(*turned) == pytest.approx(score_image(*pair))


@given(PAIRS)
def test_iou_agrees_with_its_definition(pair: tuple[Labels, Labels]) -> None:
    truth, predicted = pair
    overlap = Overlap.of(truth, predicted)
    assume(overlap.iou.size)
    for row, a in enumerate(np.setdiff1d(truth, [0])):
        for column, b in enumerate(np.setdiff1d(predicted, [0])):
            both, either = (truth == a) & (predicted == b), (truth == a) | (predicted == b)
            assert overlap.iou[row, column] == pytest.approx(both.sum() / either.sum())


@pytest.mark.parametrize(
    ("truth", "predicted", "reason"),
    [
        (np.zeros((4, 4), int), np.zeros((4, 5), int), "expected the same size"),
        (np.zeros((4, 4), float), np.zeros((4, 4), int), "truth labels are float64"),
        (np.zeros((4, 4), int), np.zeros((4, 4, 1), int), "predicted labels"),
    ],
)
def test_refuses_what_cannot_be_compared(truth: Labels, predicted: Labels, reason: str) -> None:
    with pytest.raises(InvalidData, match=reason):
        score_image(truth, predicted)


@given(SHAPES.flatmap(lambda shape: st.tuples(label_images(shape), label_images(shape))))
def test_average_precision_of_crowded_frames_is_that_of_the_overlap(
    images: tuple[Labels, Labels],
) -> None:
    truth, predicted = (
        np.unique(np.append(image, 0), return_inverse=True)[1][:-1]
        .reshape(image.shape)
        .astype(np.uint32)
        for image in images
    )
    for threshold in (0.5, 0.75):
        expected = Overlap.of(truth, predicted).average_precision(threshold)
        assert average_precision(truth, predicted, threshold) == expected


def test_average_precision_takes_memory_for_pixels_not_for_pairs() -> None:
    """All pairs of these nuclei would take 128 GiB."""
    nuclei = np.arange(1, 2**17 + 1, dtype=np.uint32).reshape(2**8, -1)
    assert average_precision(nuclei, nuclei) == 1
