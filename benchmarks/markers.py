"""Ways from probability maps to nuclei in the literature, each with options to tune.

All of them are the shipped watershed (`nuclei.postprocessing.watershed`) over another landscape, so
only what marks a nucleus differs: the landscape's h-maxima, or its connected components where it is
level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.evaluation.metrics import Overlap
from nuclei.postprocessing.probability import LEVELS
from nuclei.postprocessing.watershed import WatershedParameters, label_nuclei
from training.data.dataset import Sample
from training.tuning import coordinate_search

Maps = NDArray[np.uint8]
Labels = NDArray[np.uint32]
Scores = NDArray[np.float64]
Options = Mapping[str, float]

N_FOLDS = 5
ROUNDS = 2
LEVELS_PER_PX = 8
START: Options = {
    "foreground_threshold": 0.5,
    "h": 0.14,
    "smoothing_px": 1.0,
    "border_weight": 0.0,
    "min_area_px": 16,
    "min_score": 0.0,
}
OBJECTS: Mapping[str, tuple[float, ...]] = {
    "foreground_threshold": (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
    "min_area_px": (8, 16, 32),
    "min_score": (0.0, 0.7, 0.8, 0.85, 0.9),
}
LANDSCAPE: Mapping[str, tuple[float, ...]] = {
    "smoothing_px": (0.0, 1.0, 1.5, 2.0, 3.0),
    "h": (0.02, 0.04, 0.08, 0.14, 0.22, 0.35),
}
BORDER: Mapping[str, tuple[float, ...]] = {"border_weight": (0.0, 0.5, 0.75, 1.0)}


@dataclass(frozen=True)
class Way:
    """One way of post-processing.

    Attributes:
        label: maps uint8 [3, H, W] (foreground, border, distance) and options to labels uint32
            [H, W], 0 is background.
        grid: the values that are tried, by option.
        start: options before tuning.
    """

    label: Callable[[Maps, Options], Labels]
    grid: Mapping[str, tuple[float, ...]]
    start: Options


def watershed(maps: Maps, options: Options) -> Labels:
    return label_nuclei(maps, _parameters(options))


def components(maps: Maps, options: Options) -> Labels:
    """Connected components of the thresholded foreground."""
    return _over(maps, np.zeros_like(maps[0]), options)


def foreground_peaks(maps: Maps, options: Options) -> Labels:
    return _over(maps, maps[0], options)


def distance_transform(maps: Maps, options: Options) -> Labels:
    """The landscape is the distance to the background of the thresholded foreground.

    Steps are an eighth of a pixel; distances above 32 pixels count as 32.
    """
    mask = (maps[0] >= options["foreground_threshold"] * LEVELS).astype(np.uint8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return _over(maps, np.minimum(depth * LEVELS_PER_PX, LEVELS).astype(np.uint8), options)


def sized(maps: Maps, options: Options) -> Labels:
    """Smoothing and minimum area scale with the frame's median nucleus, found in a first pass."""
    first = np.bincount(label_nuclei(maps, _parameters(options)).ravel())[1:]
    area = float(np.median(first)) if len(first) else 0.0
    own = replace(
        _parameters(options),
        smoothing_px=options["smoothing_radii"] * (area / np.pi) ** 0.5,
        min_area_px=max(8, round(options["min_area_part"] * area)),
    )
    return label_nuclei(maps, own)


PREDICTED = Way(watershed, {**OBJECTS, **LANDSCAPE, **BORDER}, START)
WAYS = {
    "predicted-distance-and-border": PREDICTED,
    "components": Way(components, OBJECTS, START),
    "foreground-and-border": Way(foreground_peaks, {**OBJECTS, **LANDSCAPE, **BORDER}, START),
    "distance-transform": Way(distance_transform, {**OBJECTS, **LANDSCAPE}, START),
    "every-peak": Way(
        watershed,
        {**OBJECTS, **BORDER, "smoothing_px": (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)},
        {**START, "h": 0.0, "smoothing_px": 2.0},
    ),
    "predicted-distance": Way(watershed, {**OBJECTS, **LANDSCAPE}, START),
    "average-size": Way(
        sized,
        {
            **{name: OBJECTS[name] for name in ("foreground_threshold", "min_score")},
            **{name: LANDSCAPE[name] for name in ("h",)},
            **BORDER,
            "smoothing_radii": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
            "min_area_part": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
        },
        {**START, "smoothing_radii": 0.1, "min_area_part": 0.1},
    ),
}


@dataclass(frozen=True)
class Outcome:
    """The scores of a way on images that its options were not tuned on.

    Attributes:
        scores: DSB score of each image, float64 [N].
        options: the best on the other folds, by fold.
    """

    scores: Scores
    options: tuple[Options, ...]


def cross_validated(way: Way, samples: Sequence[Sample], maps: Sequence[Maps]) -> Outcome:
    """Score each fold of the images with the options that are best on the other folds."""
    known: dict[tuple[float, ...], Scores] = {}

    def scores(options: Options) -> Scores:
        key = tuple(options.values())
        if key not in known:
            labelled = [way.label(one, options) for one in maps]
            known[key] = dsb_scores(samples, labelled)
        return known[key]

    fold, weights = folds(samples), modality_weights(samples)
    result = np.zeros(len(samples))
    chosen = []
    for number in range(N_FOLDS):
        there = np.where(fold == number, 0, weights)

        def mean(options: Options, there: Scores = there) -> float:
            return float(there @ scores(options))

        best = coordinate_search(way.start, way.grid, _changed, mean, ROUNDS)
        result[fold == number] = scores(best)[fold == number]
        chosen.append(best)
    return Outcome(result, tuple(chosen))


def dsb_scores(samples: Sequence[Sample], labelled: Sequence[Labels]) -> Scores:
    """DSB score of every image, float64 [N]."""
    pairs = zip(samples, labelled, strict=True)
    return np.array([Overlap.of(sample.labels, labels).dsb_score() for sample, labels in pairs])


def folds(samples: Sequence[Sample]) -> NDArray[np.intp]:
    """Fold of each image, int [N]; every modality is spread over all folds."""
    rng = np.random.default_rng(0)
    fold = np.zeros(len(samples), np.intp)
    modalities = np.array([sample.modality for sample in samples])
    for modality in np.unique(modalities):
        own = rng.permutation(np.flatnonzero(modalities == modality))
        fold[own] = (np.arange(len(own)) + rng.integers(N_FOLDS)) % N_FOLDS
    return fold


def modality_weights(samples: Sequence[Sample]) -> Scores:
    """Weight of each image in tuning: a modality weighs the square root of its count."""
    _, index, counts = np.unique(
        [sample.modality for sample in samples], return_inverse=True, return_counts=True
    )
    return np.asarray(counts[index] ** -0.5)


def _changed(options: Options, name: str, value: float) -> Options:
    return {**options, name: value}


def _parameters(options: Options) -> WatershedParameters:
    known: dict[str, Any] = {name: options[name] for name in START}
    return WatershedParameters(**{**known, "min_area_px": int(known["min_area_px"])})


def _over(maps: Maps, landscape: NDArray[np.uint8], options: Options) -> Labels:
    return label_nuclei(np.stack([maps[0], maps[1], landscape]), _parameters(options))
