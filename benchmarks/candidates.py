"""A learned score per candidate nucleus: what the winners of the 2018 Data Science Bowl did.

The watershed at several thresholds and saddle depths gives candidates that overlap one another. A
gradient-boosted regression predicts the IoU of each with the truth from features of its region.
Candidates are taken by falling predicted IoU, as `nuclei.postprocessing.rendering` takes masks
(topcoders' description: github.com/selimsef/dsb2018_topcoders).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from markers import (
    N_FOLDS,
    START,
    Labels,
    Maps,
    Outcome,
    dsb_scores,
    folds,
    modality_weights,
    watershed,
)
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops_table
from sklearn.ensemble import HistGradientBoostingRegressor

from nuclei.evaluation.metrics import Overlap
from training.data.dataset import Sample

THRESHOLDS = (0.35, 0.5, 0.65, 0.8)
SADDLE_DEPTHS = (0.04, 0.16, 0.4)
BASE = {**START, "smoothing_px": 1.0, "border_weight": 0.75, "min_area_px": 8}
REGION = (
    *("area", "area_bbox", "area_convex", "axis_major_length", "axis_minor_length"),
    *("eccentricity", "perimeter", "solidity", "extent"),
)
RIM_PX = 3
SAME_IOU = 0.98
LEAST_IOU = (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
OVERLAPS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidates of one image.

    Attributes:
        where: flat indices of the pixels of each.
        features: float32 [N, F].
        iou: float64 [N], highest with a true nucleus.
    """

    where: list[NDArray[np.intp]]
    features: NDArray[np.float32]
    iou: NDArray[np.float64]


def learned(
    samples: Sequence[Sample],
    maps: Sequence[Maps],
    teaching: Sequence[Sample],
    of_teaching: Sequence[Maps],
) -> Outcome:
    """Fit on the teaching images, apply to the samples; thresholds come from the other folds."""
    known = _found(teaching, of_teaching)
    model = HistGradientBoostingRegressor(
        max_iter=500, learning_rate=0.05, max_leaf_nodes=31, min_samples_leaf=40, random_state=0
    )
    model.fit(
        np.concatenate([own.features for own in known]),
        np.concatenate([own.iou for own in known]),
        np.repeat(modality_weights(teaching), [len(own.iou) for own in known]),
    )
    found = _found(samples, maps)
    predicted = [model.predict(own.features) if own.where else np.empty(0) for own in found]
    return _chosen_of(samples, found, predicted)


def best_possible(samples: Sequence[Sample], maps: Sequence[Maps]) -> Outcome:
    """What a regression without error would reach: candidates chosen by their true IoU."""
    found = _found(samples, maps)
    return _chosen_of(samples, found, [own.iou for own in found])


def _found(samples: Sequence[Sample], maps: Sequence[Maps]) -> list[Candidates]:
    return [candidates(sample.labels, one) for sample, one in zip(samples, maps, strict=True)]


def _chosen_of(
    samples: Sequence[Sample],
    found: Sequence[Candidates],
    predicted: Sequence[NDArray[np.float64]],
) -> Outcome:
    fold, weights = folds(samples), modality_weights(samples)
    known = {
        (least, overlap): dsb_scores(
            samples,
            [
                chosen(own.where, iou, sample.labels.shape, least, overlap)
                for sample, own, iou in zip(samples, found, predicted, strict=True)
            ],
        )
        for least, overlap in product(LEAST_IOU, OVERLAPS)
    }
    result = np.zeros(len(samples))
    options = []
    for number in range(N_FOLDS):
        there = np.where(fold == number, 0, weights)
        best = max(known, key=lambda key: float(there @ known[key]))
        result[fold == number] = known[best][fold == number]
        options.append({"least_iou": best[0], "overlap": best[1]})
    return Outcome(result, tuple(options))


def candidates(truth: NDArray[np.uint16], maps: Maps) -> Candidates:
    """Regions of every level, without those that an earlier level already has."""
    levels = [
        watershed(maps, {**BASE, "foreground_threshold": threshold, "h": depth})
        for threshold, depth in product(THRESHOLDS, SADDLE_DEPTHS)
    ]
    where, features, iou = [], [], []
    for number, labels in enumerate(levels):
        if not labels.any():
            continue
        # IoU of the best region of every level: a nucleus is stable over levels, a clump is not.
        alike = np.stack(
            [Overlap.of(labels, other).iou.max(axis=1, initial=0) for other in levels], axis=1
        )
        new = alike[:, :number].max(axis=1, initial=0) < SAME_IOU
        level = THRESHOLDS[number // len(SADDLE_DEPTHS)], SADDLE_DEPTHS[number % len(SADDLE_DEPTHS)]
        own = np.column_stack([region_features(labels, maps), alike, np.tile(level, (len(new), 1))])
        order = np.argsort(labels.ravel(), kind="stable")
        parts = np.split(order, np.searchsorted(labels.ravel()[order], range(1, len(new) + 1)))[1:]
        where += [part for part, is_new in zip(parts, new, strict=True) if is_new]
        features.append(own[new])
        iou.append(Overlap.of(labels, truth).iou.max(axis=1, initial=0)[new])
    if not where:
        n_features = 3 * 5 + len(REGION) + 3 + len(levels) + 2
        return Candidates([], np.empty((0, n_features), np.float32), np.empty(0))
    return Candidates(where, np.concatenate(features).astype(np.float32), np.concatenate(iou))


def region_features(labels: Labels, maps: Maps) -> NDArray[np.float64]:
    """Shape, maps inside, on the rim and just outside of each region; float64 [N, F]."""
    table = regionprops_table(labels.view(np.int32), properties=REGION)
    shape = np.column_stack([table[name] for name in REGION])
    n = np.arange(1, len(shape) + 1)
    grown = cv2.dilate(labels.astype(np.float32), np.ones((2 * RIM_PX + 1,) * 2, np.uint8))
    outside = np.where(labels == 0, grown.astype(np.int32), 0)
    eroded = cv2.erode(labels.astype(np.float32), np.ones((3, 3), np.uint8))
    rim = np.where(eroded != labels, labels, 0)
    columns = []
    for one in maps.astype(np.float32):
        columns += [
            _mean(one, labels, len(n)),
            ndimage.standard_deviation(one, labels, n),
            ndimage.maximum(one, labels, n),
            _mean(one, rim, len(n)),
            _mean(one, outside, len(n)),
        ]
    typical = np.median(shape[:, 0])
    context = np.column_stack(
        [shape[:, 0] / typical, np.full(len(n), len(n) / labels.size), np.full(len(n), typical)]
    )
    return np.column_stack([*columns, shape, context])


def _mean(
    values: NDArray[np.float32], regions: NDArray[np.integer], count: int
) -> NDArray[np.float64]:
    """Mean of the values in each region 1..count, 0 where it has no pixel."""
    pixels = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    total = np.bincount(regions.ravel(), values.ravel(), count + 1)[1:]
    return np.asarray(total / np.maximum(pixels, 1))


def chosen(
    where: Sequence[NDArray[np.intp]],
    predicted: NDArray[np.float64],
    shape: tuple[int, ...],
    least: float,
    overlap: float,
) -> Labels:
    """Render candidates by falling predicted IoU, uint32 [H, W].

    Args:
        where: flat indices of the pixels of each.
        predicted: float64 [N].
        shape: of the image.
        least: candidates with a lower predicted IoU are not taken.
        overlap: neither are those that share more than this part of their pixels with those taken.
    """
    labels = np.zeros(int(np.prod(shape)), np.uint32)
    taken = 0
    for index in np.argsort(-predicted, kind="stable"):
        if predicted[index] < least:
            break
        pixels = where[index]
        free = pixels[labels[pixels] == 0]
        if len(free) >= (1 - overlap) * len(pixels):
            taken += 1
            labels[free] = taken
    return labels.reshape(shape)
