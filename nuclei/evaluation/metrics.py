"""Scores of predicted label images against the truth.

All scores of one image derive from one table of overlaps, computed once. Names follow the field:
the *DSB score* is the 2018 Data Science Bowl's (mean over IoU .50:.05:.95 of TP / (TP + FP + FN));
*AP@t* is the same formula at one IoU threshold t (StarDist: Schmidt et al. 2018, section 3);
*PQ* is panoptic quality (Kirillov et al. 2019, equation 1) with matches at IoU > 0.5.

Merges and splits follow Caicedo et al. 2019 (Cytometry A 95, "Evaluation of deep learning
strategies for nucleus segmentation"), but by the fraction of a nucleus inside another (more than
half) instead of by IoU, so that a small nucleus next to a large one counts too.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from nuclei.errors import InvalidData

DSB_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
BOUNDARY_PX = 2

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Overlap:
    """Overlap of two label images.

    Attributes:
        shared: int64 [n_true, n_predicted], pixels that each pair shares.
        true_labels: [n_true], labels of the true nuclei, ascending.
        predicted_labels: [n_predicted], labels of the predicted nuclei, ascending.
        true_area: int64 [n_true], pixels.
        predicted_area: int64 [n_predicted], pixels.
        truth, predicted: the two images, [H, W].
    """

    shared: NDArray[np.int64]
    true_labels: NDArray[np.integer]
    predicted_labels: NDArray[np.integer]
    true_area: NDArray[np.int64]
    predicted_area: NDArray[np.int64]
    truth: Labels
    predicted: Labels

    @classmethod
    def of(cls, truth: Labels, predicted: Labels) -> "Overlap":
        """Compare two label images, integer [H, W], 0 is background.

        Raises:
            InvalidData: different shapes, not two-dimensional, or not integers.
        """
        for name, labels in (("truth", truth), ("predicted", predicted)):
            if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
                raise InvalidData(
                    f"{name} labels are {labels.dtype} {list(labels.shape)}; "
                    "expected integers [H, W]"
                )
        if truth.shape != predicted.shape:
            raise InvalidData(
                f"truth is {truth.shape} and predicted is {predicted.shape}; expected the same size"
            )
        true_labels, true_index = _numbered(truth)
        predicted_labels, predicted_index = _numbered(predicted)
        shape = len(true_labels), len(predicted_labels)
        pairs = true_index * shape[1] + predicted_index
        shared = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
        rows, columns = true_labels != 0, predicted_labels != 0
        return cls(
            shared[np.ix_(rows, columns)],
            true_labels[rows],
            predicted_labels[columns],
            shared.sum(axis=1)[rows],
            shared.sum(axis=0)[columns],
            truth,
            predicted,
        )

    @property
    def n_true(self) -> int:
        return len(self.true_area)

    @property
    def n_predicted(self) -> int:
        return len(self.predicted_area)

    @cached_property
    def true_mask(self) -> NDArray[np.bool_]:
        return np.asarray(self.truth != 0)

    @cached_property
    def predicted_mask(self) -> NDArray[np.bool_]:
        return np.asarray(self.predicted != 0)

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of every pair, [n_true, n_predicted]."""
        together = self.true_area[:, None] + self.predicted_area
        return np.asarray(self.shared / (together - self.shared))

    @cached_property
    def matched_iou(self) -> NDArray[np.float64]:
        """IoU of each matched pair above 0.5, where a match is unique by construction."""
        return self.iou[self.iou > 0.5]

    def counts(self, threshold: float) -> tuple[int, int, int]:
        """(true positives, false positives, false negatives) at IoU > threshold >= 0.5."""
        hits = int((self.matched_iou > threshold).sum())
        return hits, self.n_predicted - hits, self.n_true - hits

    def average_precision(self, threshold: float) -> float:
        """TP / (TP + FP + FN); 1 when neither image has a nucleus."""
        hits, extra, missed = self.counts(threshold)
        return _ratio(hits, hits + extra + missed)

    def precision(self, threshold: float = 0.5) -> float:
        hits, extra, _ = self.counts(threshold)
        return _ratio(hits, hits + extra)

    def recall(self, threshold: float = 0.5) -> float:
        hits, _, missed = self.counts(threshold)
        return _ratio(hits, hits + missed)

    def f1(self, threshold: float = 0.5) -> float:
        hits, extra, missed = self.counts(threshold)
        return _ratio(2 * hits, 2 * hits + extra + missed)

    def dsb_score(self) -> float:
        return float(np.mean([self.average_precision(t) for t in DSB_THRESHOLDS]))

    def panoptic_quality(self) -> float:
        hits, extra, missed = self.counts(0.5)
        return _ratio(float(self.matched_iou.sum()), hits + (extra + missed) / 2)

    def mean_iou(self) -> float:
        """Mean over true nuclei of the IoU with the prediction that fits best."""
        if not self.n_true:
            return _ratio(0, self.n_predicted)
        return float(self.iou.max(axis=1, initial=0).mean())

    @cached_property
    def merging(self) -> NDArray[np.bool_]:
        """Whether a predicted nucleus covers most of several true ones, [n_predicted]."""
        return np.asarray(self._true_inside.sum(axis=0) > 1)

    @cached_property
    def split(self) -> NDArray[np.bool_]:
        """Whether a true nucleus covers most of several predicted ones, [n_true]."""
        return np.asarray(self._predicted_inside.sum(axis=1) > 1)

    @cached_property
    def merged(self) -> NDArray[np.bool_]:
        """Whether a true nucleus is one of those that a predicted one merges, [n_true]."""
        return np.asarray(self._true_inside[:, self.merging].any(axis=1))

    @cached_property
    def fragment(self) -> NDArray[np.bool_]:
        """Whether a predicted nucleus is a part of a split one, [n_predicted]."""
        return np.asarray(self._predicted_inside[self.split].any(axis=0))

    @cached_property
    def missed(self) -> NDArray[np.bool_]:
        """Whether a true nucleus has no match and no part in a merge or a split, [n_true]."""
        return ~((self.iou > 0.5).any(axis=1) | self.merged | self.split)

    @cached_property
    def extra(self) -> NDArray[np.bool_]:
        """Whether a predicted nucleus has no match, merge or split, [n_predicted]."""
        return ~((self.iou > 0.5).any(axis=0) | self.fragment | self.merging)

    @property
    def _true_inside(self) -> NDArray[np.bool_]:
        return np.asarray(self.shared * 2 > self.true_area[:, None])

    @property
    def _predicted_inside(self) -> NDArray[np.bool_]:
        return np.asarray(self.shared * 2 > self.predicted_area)

    def count_error(self) -> int:
        """Absolute difference of the numbers of nuclei."""
        return abs(self.n_predicted - self.n_true)

    def pixel_accuracy(self) -> float:
        """Fraction of pixels that are correctly foreground or background."""
        return float((self.true_mask == self.predicted_mask).mean())

    def dice(self) -> float:
        """Dice coefficient of the foreground masks."""
        return _dice(self.true_mask, self.predicted_mask)

    def boundary_f1(self, distance_px: int = BOUNDARY_PX) -> float:
        """F1 of outlines, where one within `distance_px` of the other is found.

        Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", section
        2.2, of single nuclei: outlines where two touch count, too.
        """
        true, predicted = _outlines(self.truth), _outlines(self.predicted)
        correct, found = (
            predicted & _within(true, distance_px),
            true & _within(predicted, distance_px),
        )
        precision = _ratio(int(correct.sum()), int(predicted.sum()))
        recall = _ratio(int(found.sum()), int(true.sum()))
        return _ratio(2 * precision * recall, precision + recall)


def score_image(truth: Labels, predicted: Labels) -> dict[str, float]:
    """Every score of one image, by name (see `scores_of`).

    Args:
        truth: integer [H, W], 0 is background.
        predicted: integer [H, W], 0 is background.

    Raises:
        InvalidData: the two cannot be compared.
    """
    return scores_of(Overlap.of(truth, predicted))


def scores_of(overlap: Overlap) -> dict[str, float]:
    """Every score of one image, by name (see the module's docstring).

    `missed` and `extra` count nuclei, `merged` predicted nuclei that cover several true ones,
    `split` true nuclei that cover several predicted ones.
    """
    return {
        "dsb_score": overlap.dsb_score(),
        **{f"ap_{t:.2f}": overlap.average_precision(t) for t in DSB_THRESHOLDS},
        "f1_0.50": overlap.f1(0.5),
        "f1_0.75": overlap.f1(0.75),
        "precision_0.50": overlap.precision(),
        "recall_0.50": overlap.recall(),
        "pq": overlap.panoptic_quality(),
        "mean_iou": overlap.mean_iou(),
        "pixel_accuracy": overlap.pixel_accuracy(),
        "dice": overlap.dice(),
        "boundary_f1": overlap.boundary_f1(),
        "count_error": overlap.count_error(),
        "missed": int(overlap.missed.sum()),
        "extra": int(overlap.extra.sum()),
        "merged": int(overlap.merging.sum()),
        "split": int(overlap.split.sum()),
        "n_true": overlap.n_true,
        "n_predicted": overlap.n_predicted,
    }


def average_precision(
    truth: NDArray[np.uint32], predicted: NDArray[np.uint32], threshold: float = 0.5
) -> float:
    """`Overlap.average_precision`, in memory for the pixels only: for crowded frames.

    Args:
        truth, predicted: uint32 [H, W] of the same size, 0 is background, else 1..N.
        threshold: IoU that a match exceeds, at least 0.5.
    """
    true_area = np.bincount(truth.ravel())[1:]
    predicted_area = np.bincount(predicted.ravel())[1:]
    both = np.nonzero((truth != 0) & (predicted != 0))
    pairs = (truth[both] - 1).astype(np.int32), (predicted[both] - 1).astype(np.int32)
    ones = np.ones(len(pairs[0]), np.int32)
    shared = sparse.coo_array((ones, pairs), (len(true_area), len(predicted_area))).tocsr().tocoo()
    rows, columns = shared.coords
    together = true_area[rows] + predicted_area[columns] - shared.data
    hits = int((shared.data > threshold * together).sum())
    return _ratio(hits, len(true_area) + len(predicted_area) - hits)


def _numbered(labels: Labels) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """The values that occur, ascending, and for each pixel the index of its value."""
    flat = labels.ravel()
    if flat.size and flat.min() >= 0 and flat.max() < flat.size:  # counting is faster than sorting
        occurs = np.bincount(flat.astype(np.int64)) > 0
        return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[flat]
    values, index = np.unique(flat, return_inverse=True)
    return values, index.astype(np.int64)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return _ratio(2 * int((a & b).sum()), int(a.sum()) + int(b.sum()))


def _outlines(labels: Labels) -> NDArray[np.bool_]:
    """The pixels of each nucleus that touch, by a side, what is none of it."""
    outlines = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        # Views with this axis first, which write into the same array.
        differs = np.diff(labels.swapaxes(0, axis), axis=0) != 0
        along = outlines.swapaxes(0, axis)
        along[1:] |= differs
        along[:-1] |= differs
    return np.asarray(outlines & (labels != 0), np.bool_)


def _within(mask: NDArray[np.bool_], distance_px: int) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= distance_px)
