"""Scores of predicted label images against the truth.

All scores of one image derive from one table of overlaps, computed once. Names follow the field:
the *DSB score* is the 2018 Data Science Bowl's (mean over IoU .50:.05:.95 of TP / (TP + FP + FN));
*AP@t* is the same formula at one IoU threshold t (StarDist: Schmidt et al. 2018, section 3);
*PQ* is panoptic quality (Kirillov et al. 2019, equation 1) with matches at IoU > 0.5.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.errors import InvalidData

DSB_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
BOUNDARY_BAND_PX = 2

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Overlap:
    """Overlap of two label images.

    Attributes:
        iou: float64 [n_true, n_predicted], intersection over union of every pair.
        true_mask: bool [H, W].
        predicted_mask: bool [H, W].
    """

    iou: NDArray[np.float64]
    true_mask: NDArray[np.bool_]
    predicted_mask: NDArray[np.bool_]

    @classmethod
    def of(cls, truth: Labels, predicted: Labels) -> "Overlap":
        """Compare two label images, integer [H, W], 0 is background.

        Raises:
            InvalidData: other shapes, not two-dimensional, or not integers.
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
        true_index = np.unique(truth, return_inverse=True)
        predicted_index = np.unique(predicted, return_inverse=True)
        n_true, n_predicted = len(true_index[0]), len(predicted_index[0])
        pairs = true_index[1].ravel().astype(np.int64) * n_predicted + predicted_index[1].ravel()
        together = np.bincount(pairs, minlength=n_true * n_predicted).reshape(n_true, n_predicted)
        union = together.sum(1, keepdims=True) + together.sum(0, keepdims=True) - together
        iou = together / union
        return cls(
            iou[np.ix_(true_index[0] != 0, predicted_index[0] != 0)], truth != 0, predicted != 0
        )

    @property
    def n_true(self) -> int:
        return len(self.iou)

    @property
    def n_predicted(self) -> int:
        return int(self.iou.shape[1])

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

    def dice(self) -> float:
        """Dice coefficient of the foreground masks."""
        return _dice(self.true_mask, self.predicted_mask)

    def boundary_dice(self, band_px: int = BOUNDARY_BAND_PX) -> float:
        """Dice of the foreground within `band_px` of the outline of the true foreground."""
        band = _within(self.true_mask, band_px) & _within(~self.true_mask, band_px)
        return _dice(self.true_mask & band, self.predicted_mask & band)


def score_image(truth: Labels, predicted: Labels) -> dict[str, float]:
    """Every score of one image, by name (see the module's docstring).

    Args:
        truth: integer [H, W], 0 is background.
        predicted: integer [H, W], 0 is background.

    Raises:
        InvalidData: the two cannot be compared.
    """
    overlap = Overlap.of(truth, predicted)
    return {
        "dsb_score": overlap.dsb_score(),
        **{f"ap_{t:.2f}": overlap.average_precision(t) for t in DSB_THRESHOLDS},
        "f1_0.50": overlap.f1(0.5),
        "f1_0.75": overlap.f1(0.75),
        "precision_0.50": overlap.precision(),
        "recall_0.50": overlap.recall(),
        "pq": overlap.panoptic_quality(),
        "mean_iou": overlap.mean_iou(),
        "dice": overlap.dice(),
        "boundary_dice": overlap.boundary_dice(),
        "n_true": overlap.n_true,
        "n_predicted": overlap.n_predicted,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return _ratio(2 * int((a & b).sum()), int(a.sum()) + int(b.sum()))


def _within(mask: NDArray[np.bool_], distance_px: int) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= distance_px)
