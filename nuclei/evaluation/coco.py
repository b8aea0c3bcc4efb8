"""COCO's average precision and recall of scored nuclei, over a set of images.

The definitions are pycocotools' (COCOeval, one category, no crowds), with no limit on the nuclei of
an image where COCO looks at 100. *AP* is the mean over IoU .50:.05:.95 of the area under the
interpolated precision-recall curve, *AR* that of the highest recall; sizes are of the true nuclei.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.errors import InvalidData
from nuclei.evaluation.metrics import Labels, Overlap
from nuclei.evaluation.statistics import Interval, statistic_interval
from nuclei.imaging.images import Frame
from nuclei.postprocessing.accumulation import Accumulator, Parameters
from nuclei.postprocessing.measurement import measure

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
# Areas in square pixels, lowest and highest.
SIZES = {
    "": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


@dataclass(frozen=True, eq=False)
class Candidates:
    """The nuclei a model found in one image, the doubtful ones too.

    Attributes:
        labels: integer [H, W], 0 is background, 1..N without gaps.
        scores: float32 [N], of each label.
    """

    labels: Labels
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, answer: Accumulator, parameters: Parameters, frame: Frame) -> "Candidates":
        """What a model's answer to a frame holds when no nucleus is too doubtful.

        The nuclei above the `min_score` of the parameters are those that are served: a doubtful
        nucleus never takes a pixel of one with a higher score.
        """
        labels, scores = answer.label(replace(parameters, min_score=0.0), lambda: None)
        if scores is None:
            scores = measure(labels, frame.pixels, answer.foreground).score
        return cls(labels, scores)


@dataclass(frozen=True, eq=False)
class Detections:
    """The true and the found nuclei of one image.

    Attributes:
        iou: float64 [n_true, n_found], of every pair, of masks or of boxes.
        true_area: float64 [n_true], pixels.
        found_area: float64 [n_found], pixels.
        score: float32 [n_found].
    """

    iou: NDArray[np.float64]
    true_area: NDArray[np.float64]
    found_area: NDArray[np.float64]
    score: NDArray[np.float32]

    @classmethod
    def of_masks(cls, truth: Labels, candidates: Candidates) -> "Detections":
        """Compare the masks.

        Args:
            truth: integer [H, W], 0 is background.
            candidates: in the same image.

        Raises:
            InvalidData: the two cannot be compared, or labels and scores do not agree.
        """
        overlap = Overlap.of(truth, candidates.labels)
        if overlap.n_predicted != len(candidates.scores):
            raise InvalidData(
                f"there are {overlap.n_predicted} nuclei and {len(candidates.scores)} scores; "
                "expected one score for each label"
            )
        return cls(
            overlap.iou,
            overlap.true_area.astype(np.float64),
            overlap.predicted_area.astype(np.float64),
            candidates.scores,
        )

    @classmethod
    def of_boxes(cls, truth: Labels, candidates: Candidates) -> "Detections":
        """Compare the boxes around the masks; true nuclei keep the areas of their masks, as COCO's.

        Arguments and errors as `of_masks`.
        """
        masks = cls.of_masks(truth, candidates)
        true_boxes, found_boxes = _boxes(truth), _boxes(candidates.labels)
        return cls(
            _box_iou(true_boxes, found_boxes), masks.true_area, _areas(found_boxes), masks.score
        )


def coco_scores(images: Sequence[Detections]) -> dict[str, float]:
    """AP, AP@.50, AP@.75 and AR, overall and by size.

    Returns:
        `ap`, `ap_0.50`, `ap_0.75`, `ar`, and `ap_small`, `ar_small` and so on; NaN for a size of
        which there is no true nucleus.
    """
    scores = {}
    for size, limits in SIZES.items():
        precision, recall = _curves(images, limits)
        suffix = f"_{size}" if size else ""
        scores[f"ap{suffix}"] = float(precision.mean())
        scores[f"ar{suffix}"] = float(recall.mean())
        if not size:
            scores["ap_0.50"], scores["ap_0.75"] = (float(precision[k].mean()) for k in (0, 5))
    return scores


def precisions(images: Sequence[Detections]) -> NDArray[np.float64]:
    """Interpolated precision at the recalls `RECALLS`, one row for each of `THRESHOLDS`."""
    return _curves(images, SIZES[""])[0]


def ap_interval(images: Sequence[Detections]) -> Interval:
    """95 % interval of AP, bootstrap over the images; at least one has a true nucleus."""
    matched = [_match(image, SIZES[""]) for image in images]

    def ap(chosen: NDArray[np.intp]) -> float:
        drawn = [matched[index] for index in chosen]
        # A draw of images without any nucleus tells nothing; that of all images stands for it.
        return float(_accumulate(drawn if _n_true(drawn) else matched)[0].mean())

    return statistic_interval(len(images), ap)


@dataclass(frozen=True, eq=False)
class _Matched:
    """The found nuclei of one image by falling score, and which of them hit.

    Attributes:
        score: float32 [n_found].
        hit: bool [thresholds, n_found], whether it is the match of a true nucleus.
        ignored: bool [thresholds, n_found], whether it is of another size and does not count.
        n_true: number of true nuclei of the size.
    """

    score: NDArray[np.float32]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    n_true: int


def _n_true(images: Sequence[_Matched]) -> int:
    return sum(image.n_true for image in images)


def _curves(
    images: Sequence[Detections], limits: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision at each recall, [thresholds, recalls], and the highest recall, [thresholds]."""
    return _accumulate([_match(image, limits) for image in images])


def _accumulate(images: Sequence[_Matched]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curves of `_curves`; NaN without a true nucleus."""
    shape, n_true = (len(THRESHOLDS), len(RECALLS)), _n_true(images)
    if n_true == 0:
        return np.full(shape, np.nan), np.full(len(THRESHOLDS), np.nan)
    order = np.argsort(-np.concatenate([image.score for image in images]), kind="mergesort")
    hit = np.concatenate([image.hit for image in images], axis=1)[:, order]
    ignored = np.concatenate([image.ignored for image in images], axis=1)[:, order]
    precision, recall = np.zeros(shape), np.zeros(len(THRESHOLDS))
    for k in range(len(THRESHOLDS) if len(order) else 0):
        true = np.cumsum(hit[k] & ~ignored[k])
        false = np.cumsum(~hit[k] & ~ignored[k])
        recalled = true / n_true
        falling = np.maximum.accumulate((true / np.maximum(true + false, 1))[::-1])[::-1]
        at = np.searchsorted(recalled, RECALLS, side="left")
        reached = at < len(falling)
        precision[k, reached] = falling[at[reached]]
        recall[k] = recalled[-1]
    return precision, recall


def _match(image: Detections, limits: tuple[float, float]) -> _Matched:
    """By falling score, each takes the free true nucleus that it fits best.

    One of another size it takes only when no other fits.
    """
    order = np.argsort(-image.score, kind="mergesort")
    iou = image.iou[:, order]
    fits_best = iou.max(axis=0, initial=0)
    other_size = ~_within(image.true_area, limits)
    hit = np.zeros((len(THRESHOLDS), len(order)), bool)
    ignored = np.repeat(~_within(image.found_area[order], limits)[None], len(THRESHOLDS), axis=0)
    for k, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(iou), bool)
        for found in np.flatnonzero(fits_best >= threshold):
            best = _best(iou[:, found], free, other_size, threshold)
            if best is not None:
                free[best] = False
                hit[k, found] = True
                ignored[k, found] = other_size[best]
    return _Matched(image.score[order], hit, ignored, int((~other_size).sum()))


def _best(
    iou: NDArray[np.float64],
    free: NDArray[np.bool_],
    other_size: NDArray[np.bool_],
    threshold: float,
) -> int | None:
    fitting = np.flatnonzero(free & (iou >= threshold))
    for among in (fitting[~other_size[fitting]], fitting[other_size[fitting]]):
        if len(among):
            # The last of equals, as pycocotools does.
            return int(among[::-1][np.argmax(iou[among][::-1])])
    return None


def _within(area: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    return np.asarray((area >= limits[0]) & (area <= limits[1]))


def _boxes(labels: Labels) -> NDArray[np.float64]:
    """Box of each label, rising: float64 [N, 2, 2], ((y0, x0), (y1, x1)), the second outside it."""
    found = [box for box in ndimage.find_objects(labels.astype(np.int32)) if box is not None]
    corners = [[[side.start for side in box], [side.stop for side in box]] for box in found]
    return np.array(corners, np.float64).reshape(-1, 2, 2)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 1] - boxes[:, 0]).prod(axis=1))


def _box_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of every pair, [len(a), len(b)]."""
    top_left = np.maximum(a[:, None, 0], b[None, :, 0])
    bottom_right = np.minimum(a[:, None, 1], b[None, :, 1])
    shared = np.maximum(bottom_right - top_left, 0).prod(axis=2)
    return np.asarray(shared / (_areas(a)[:, None] + _areas(b) - shared))
