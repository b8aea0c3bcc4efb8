"""The calibration of the measures of quality: the reference that travels in a contract.

Limits are conformal (Vovk et al. 2005, "Algorithmic Learning in a Random World"): of each frame the
measure that is furthest out, by tails fitted to the frames of other folds, gives one number, and
the quantile of these numbers gives the limits of all measures together.
"""

import asyncio
import math
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor

from nuclei.console import tracked
from nuclei.errors import ChoiceRequired
from nuclei.evaluation.metrics import Overlap
from nuclei.imaging.images import frame_from_array
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.pipeline import segment
from nuclei.quality.drift import Bins, window_psi
from nuclei.quality.judgement import estimated_score, group_of
from nuclei.quality.reference import (
    FEATURES,
    GROUPS,
    LEVELS,
    FeatureReference,
    Group,
    GroupReference,
    QualityReference,
    ScoreModel,
    Tree,
)
from nuclei.quality.sentences import TOO_HIGH, TOO_LOW
from nuclei.results.quality import Quality
from training.data.dataset import Sample
from training.data.spoiling import spoiled

# Fewer frames of a group tell nothing about the next one.
MIN_FRAMES = 20
# Spoiled copies of each image, from which the estimated score learns what bad frames look like.
COPIES = 2
# Clean frames of a group that are also segmented with test-time augmentation, eight times as slow.
TTA_FRAMES = 20
# Copies, and what is segmented with augmentation, are the middle of large images: for time.
MIDDLE_PX = 384
FOLDS = 5
# Share of clean frames that get a warning.
FALSE_ALARM_RATE = 0.02
# Drift is looked for over so many frames, and false alarms are counted over days of so many.
WINDOW, FRAMES_PER_DAY = 200, 2000
FALSE_ALARMS_PER_DAY = 0.01
# Simulated days, and the distance of the frames at which their windows are looked at.
DAYS, DAY_STEP = 1000, 10

# Measures that are compared as logarithms, and what smaller values count as.
LOGARITHMIC: Mapping[str, float] = {
    "median_area_px": 1.0,
    "area_spread": 0.01,
    "near_threshold": 1e-3,
    "tta_disagreement": 1e-3,
    "focus": 1e-3,
    "saturated": 1e-2,
    "dynamic_range": 1e-3,
    "signal_to_noise": 0.1,
}
# The share of frames whose values make a tail, and how far on average they reach at least into it.
TAIL = 0.1
LEAST_SCALE_OF_LOGARITHM, LEAST_SCALE = 0.1, 0.02
# The sides of a measure: -1 is too low.
SIGNS: Mapping[int, Mapping[str, str]] = {-1: TOO_LOW, 1: TOO_HIGH}

# What the estimated score looks at, and whether it rises (1) or falls (-1) with it.
SCORED: Mapping[str, int] = {
    "coverage": 0,
    "median_area_px": 0,
    "area_spread": 0,
    "mean_probability": 1,
    "boundary_entropy": -1,
    "near_threshold": -1,
    "focus": 0,
    "signal_to_noise": 1,
}
TREES, LEAVES, LEARNING_RATE, LEAST_IN_LEAF = 40, 8, 0.15, 20

_DIGITS = 6
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Observed:
    """A frame with a known truth, as the model sees it.

    Attributes:
        quality: of the frame, without an estimated score.
        score: the DSB score it reached.
        source: name of the data set.
        image: its id; spoiled copies share that of their image.
        modality: of the image.
        group: of the frame.
        clean: whether it is the image itself, not a spoiled copy.
    """

    quality: Quality
    score: float
    source: str
    image: str
    modality: str
    group: Group
    clean: bool


def calibration_images(samples: Sequence[Sample]) -> list[Sample]:
    """The images of those groups that have enough of them (`MIN_FRAMES`)."""
    groups = [group_of(sample.pixels) for sample in samples]
    return [
        sample
        for sample, group in zip(samples, groups, strict=True)
        if groups.count(group) >= MIN_FRAMES
    ]


def observe(
    sources: Mapping[str, Sequence[Sample]],
    engine: Engine,
    served: ServedVersion,
    *,
    seed: int = 0,
) -> list[Observed]:
    """Segment images and spoiled copies of them, and score the results.

    Args:
        sources: images that the model was not trained on, by name of the data set.
        engine: runs the model.
        served: the model version.
        seed: of what is random in the copies.
    """
    # What an earlier calibration says plays no part in this one.
    served = replace(served, contract=replace(served.contract, quality=None))
    usable = calibration_images([sample for samples in sources.values() for sample in samples])
    samples = [(name, one) for name, given in sources.items() for one in given if one in usable]
    # By the image, not by its place: the same image gives the same copies among any others.
    keys = [zlib.crc32(f"{seed}/{name}/{sample.id}".encode()) for name, sample in samples]
    left_for_tta = dict.fromkeys(GROUPS, TTA_FRAMES)
    observed = []
    order = np.argsort(keys, kind="stable")
    for index in tracked(order, "measuring quality"):
        source, sample = samples[index]
        rng = np.random.default_rng(keys[index])
        part = middle(sample)
        one = _observed(sample, source, engine, served, clean=True)
        if left_for_tta[one.group] > 0:
            left_for_tta[one.group] -= 1
            views = _segmented(part, engine, served, tta=True)[0].tta_disagreement
            one = replace(one, quality=replace(one.quality, tta_disagreement=views))
        observed.append(one)
        for _ in range(COPIES):
            # What the service refuses, it does not judge: colours on black.
            with suppress(ChoiceRequired):
                observed.append(_observed(spoiled(part, rng), source, engine, served, clean=False))
    return observed


def calibrated(
    observed: Sequence[Observed], *, seed: int = 0, days: int = DAYS
) -> QualityReference | None:
    """The reference of a model; None where no group has enough frames (`MIN_FRAMES`).

    Args:
        observed: frames as `observe` gives them.
        seed: of the folds, and of the simulated days.
        days: how many are simulated for the thresholds of drift.
    """
    rng = np.random.default_rng(seed)
    groups = {}
    for group in GROUPS:
        of_group = [one for one in observed if one.group == group]
        if sum(one.clean for one in of_group) >= MIN_FRAMES:
            groups[group] = _group_reference(of_group, rng, days)
    if not groups:
        return None
    return QualityReference(groups, WINDOW, FRAMES_PER_DAY, FALSE_ALARMS_PER_DAY)


def middle(sample: Sample) -> Sample:
    """The middle of an image, at most `MIDDLE_PX` a side."""
    part = tuple(
        slice(max(0, (length - MIDDLE_PX) // 2), (length + MIDDLE_PX) // 2)
        for length in sample.labels.shape
    )
    return replace(sample, pixels=sample.pixels[part], labels=sample.labels[part])


def limits_of(
    measures: Mapping[str, Values], rng: np.random.Generator
) -> tuple[dict[str, tuple[float | None, float | None]], float]:
    """The limits of measures, outside of which some measure of a clean frame seldom is.

    Args:
        measures: float64 [N] of the clean frames by name, NaN where it is not known.
        rng: parts the frames into folds.

    Returns:
        (lo, hi) by name, None on a side that is no fault; and the share of frames like these that
        get a warning: `FALSE_ALARM_RATE`, or what N frames can tell where that is more.
    """
    n = len(next(iter(measures.values())))
    sides = {
        (name, sign): sign * _scaled(name, values)
        for name, values in measures.items()
        for sign, sentences in SIGNS.items()
        if name in sentences
    }
    rarest = np.full(n, -np.inf)
    fold = rng.permutation(n) % min(FOLDS, n)
    for held in range(min(FOLDS, n)):
        here = fold == held
        for (name, _), values in sides.items():
            tail = _Tail.of(name, values[~here])
            rarest[here] = np.fmax(rarest[here], tail.rareness(values[here]))
    rank = min(n, math.ceil((n + 1) * (1 - FALSE_ALARM_RATE)))
    allowed = max(-math.log(TAIL), float(np.sort(rarest)[rank - 1]))
    limits = {
        (name, sign): _unscaled(name, sign * _Tail.of(name, values).limit(allowed))
        for (name, sign), values in sides.items()
    }
    by_name = {name: (limits.get((name, -1)), limits.get((name, 1))) for name in measures}
    return by_name, 1 - rank / (n + 1)


def drift_thresholds(
    measures: Mapping[str, Values], rng: np.random.Generator, days: int = DAYS
) -> dict[str, float]:
    """The population stability index of each measure that only drift exceeds.

    A bootstrap: on each simulated day, a reference and a stream of frames are drawn at random from
    the frames, with replacement. On `FALSE_ALARMS_PER_DAY` of the days some measure is somewhen
    above its threshold.

    Args:
        measures: float64 [N] of the clean frames by name, NaN where it is not known.
        rng: of the simulation.
        days: how many are simulated.
    """
    names = list(measures)
    n = len(next(iter(measures.values())))
    largest = np.zeros((days, len(names)))
    known = [_known(values) for values in measures.values()]
    for day in largest:
        drawn, of_reference = rng.random(FRAMES_PER_DAY), rng.random(n)
        for index, values in enumerate(known):
            reference = values[(of_reference[: len(values)] * len(values)).astype(np.intp)]
            day[index] = _largest_psi(reference, values[(drawn * len(values)).astype(np.intp)])
    typical, spread = largest.mean(axis=0), np.maximum(largest.std(axis=0), 1e-6)
    furthest = np.sort(((largest - typical) / spread).max(axis=1))
    width = furthest[math.ceil(days * (1 - FALSE_ALARMS_PER_DAY)) - 1]
    return dict(zip(names, (typical + width * spread).tolist(), strict=True))


def left_out_estimates(
    observed: Sequence[Observed], *, seed: int = 0
) -> tuple[list[float | None], int]:
    """The estimated score of each frame, by trees that saw no frame of its source.

    With one source only, by trees that saw neither its image nor a copy of it.

    Returns:
        The estimates, None where they are unknown; and the number of sources.
    """
    sources = sorted({one.source for one in observed})
    if len(sources) > 1:
        return _estimates_across([one.source for one in observed], observed), len(sources)
    return _estimates_across(_folds(observed, np.random.default_rng(seed)), observed), 1


def score_model(
    observed: Sequence[Observed], error: float, correlation: float, sources: int
) -> ScoreModel:
    """Trees that estimate the score of frames; the last three are kept with them."""
    values = _columns(observed, SCORED)
    regressor = HistGradientBoostingRegressor(
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        learning_rate=LEARNING_RATE,
        min_samples_leaf=LEAST_IN_LEAF,
        monotonic_cst=list(SCORED.values()),
        early_stopping=False,
        random_state=0,
    )
    known = np.isfinite(values).all(axis=1)
    regressor.fit(values[known], np.array([one.score for one in observed])[known])
    trees, base = trees_of(regressor)
    ends = zip(values[known].min(axis=0), values[known].max(axis=0), strict=True)
    return ScoreModel(
        tuple(SCORED),
        tuple((_shortened(lo), _shortened(hi)) for lo, hi in ends),
        base,
        trees,
        _shortened(error),
        _shortened(correlation),
        sources,
    )


def trees_of(regressor: HistGradientBoostingRegressor) -> tuple[tuple[Tree, ...], float]:
    """The trees of a fitted regressor, and the score before any of them."""
    trees = []
    for (predictor,) in regressor._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            Tree(
                tuple(np.where(leaf, -1, nodes["feature_idx"]).tolist()),
                tuple(map(_shortened, np.where(leaf, 0.0, nodes["num_threshold"]))),
                tuple(np.where(leaf, -1, nodes["left"].astype(np.int64)).tolist()),
                tuple(np.where(leaf, -1, nodes["right"].astype(np.int64)).tolist()),
                tuple(map(_shortened, np.where(leaf, nodes["value"], 0.0))),
            )
        )
    return tuple(trees), _shortened(float(np.ravel(regressor._baseline_prediction)[0]))


@dataclass(frozen=True)
class _Tail:
    """The tenth of a measure's values that is furthest out on one side, as an exponential tail.

    Values are mirrored for the low side, so that a tail always ends upwards.

    Attributes:
        start: above it lie a tenth of the values; NaN where no frame has the measure.
        scale: how far on average.
    """

    start: float
    scale: float

    @classmethod
    def of(cls, name: str, values: Values) -> "_Tail":
        known = _known(values)
        if not len(known):
            return cls(math.nan, math.nan)
        start = float(np.quantile(known, 1 - TAIL))
        above = known[known > start]
        least = LEAST_SCALE_OF_LOGARITHM if name in LOGARITHMIC else LEAST_SCALE
        return cls(start, max(float((above - start).mean()) if len(above) else 0.0, least))

    def rareness(self, values: Values) -> Values:
        """How far out values [N] are: minus the logarithm of the share beyond; NaN if unknown."""
        return (values - self.start) / self.scale - math.log(TAIL)

    def limit(self, rareness: float) -> float:
        """The value that is so far out."""
        return self.start + self.scale * (rareness + math.log(TAIL))


def _observed(
    sample: Sample, source: str, engine: Engine, served: ServedVersion, clean: bool
) -> Observed:
    quality, score = _segmented(sample, engine, served, tta=False)
    group = group_of(sample.pixels)
    return Observed(quality, score, source, sample.id, sample.modality, group, clean)


def _segmented(
    sample: Sample, engine: Engine, served: ServedVersion, tta: bool
) -> tuple[Quality, float]:
    """The measures of an image, and the score that it reaches."""
    found = asyncio.run(segment(frame_from_array(sample.pixels), engine, served, tta=tta))
    return found.quality or Quality(), Overlap.of(sample.labels, found.labels).dsb_score()


def _group_reference(
    observed: Sequence[Observed], rng: np.random.Generator, days: int = DAYS
) -> GroupReference:
    """The reference of a group, from its frames, clean and spoiled.

    Args:
        observed: the frames.
        rng: of the folds and of the simulated days.
        days: how many are simulated for the thresholds of drift.
    """
    score, estimates = _estimator(observed, rng)
    clean = [
        one if score is None else replace(one, quality=replace(one.quality, estimated_score=each))
        for one, each in zip(observed, estimates, strict=True)
        if one.clean
    ]
    columns = dict(zip(FEATURES, _columns(clean, FEATURES).T, strict=True))
    measures = {
        name: values for name, values in columns.items() if np.isfinite(values).sum() >= MIN_FRAMES
    }
    limits, rate = limits_of(measures, rng)
    thresholds = drift_thresholds(measures, rng, days)
    features = {
        name: FeatureReference(
            tuple(map(_shortened, np.quantile(_known(values), LEVELS))),
            limits[name],
            _shortened(thresholds[name]),
        )
        for name, values in measures.items()
    }
    return GroupReference(len(clean), _shortened(rate), features, score)


def _estimator(
    observed: Sequence[Observed], rng: np.random.Generator
) -> tuple[ScoreModel | None, list[float | None]]:
    """The estimator of scores, and what trees that did not see an image say of each frame."""
    left_out, sources = left_out_estimates(observed)
    pairs = [(e, one.score) for e, one in zip(left_out, observed, strict=True) if e is not None]
    if len(pairs) < MIN_FRAMES:
        return None, [None] * len(observed)
    estimated, true = np.array(pairs).T
    error = float(np.abs(estimated - true).mean())
    correlation = float(np.nan_to_num(spearmanr(estimated, true).statistic))
    model = score_model(observed, error, correlation, sources)
    return model, _estimates_across(_folds(observed, rng), observed)


def _estimates_across(parts: Sequence[str], observed: Sequence[Observed]) -> list[float | None]:
    """The estimate of each frame by trees that saw none of its part."""
    models = {}
    for part in set(parts):
        others = [one for one, its in zip(observed, parts, strict=True) if its != part]
        known = np.isfinite(_columns(others, SCORED)).all(axis=1).sum() if others else 0
        models[part] = score_model(others, 0.0, 0.0, 1) if known >= 2 * LEAST_IN_LEAF else None
    return [
        None if (model := models[part]) is None else estimated_score(one.quality, model)
        for one, part in zip(observed, parts, strict=True)
    ]


def _folds(observed: Sequence[Observed], rng: np.random.Generator) -> list[str]:
    """A fold for each frame; the copies of an image are in the same."""
    images = sorted({(one.source, one.image) for one in observed})
    numbers = dict(zip(images, rng.permutation(len(images)) % FOLDS, strict=True))
    return [str(numbers[one.source, one.image]) for one in observed]


def _columns(observed: Sequence[Observed], names: Sequence[str] | Mapping[str, int]) -> Values:
    """float64 [N, len(names)], NaN where a measure is not known."""
    rows = [[getattr(one.quality, name) for name in names] for one in observed]
    return np.array(rows, np.float64).reshape(len(rows), len(names))


def _largest_psi(reference: Values, frames: Values) -> float:
    """The largest index of the windows of frames, which are in their order."""
    bins = Bins(tuple(np.quantile(reference, LEVELS)))
    n = len(bins)
    steps = len(frames) // DAY_STEP
    places = np.arange(len(frames)) // DAY_STEP * n + bins.of(frames)
    counts = np.bincount(places, minlength=steps * n).reshape(steps, n)
    sums = np.cumsum(np.vstack([np.zeros(n), counts]), axis=0)
    length = WINDOW // DAY_STEP
    of_windows = np.asarray(sums[length:] - sums[:-length], np.float64)
    return float(window_psi(bins.expected, of_windows).max())


def _known(values: Values) -> Values:
    return values[np.isfinite(values)]


def _scaled(name: str, values: Values) -> Values:
    return np.log(np.maximum(values, LOGARITHMIC[name])) if name in LOGARITHMIC else values


def _unscaled(name: str, value: float) -> float | None:
    """A limit in the units of the measure; None where nothing is beyond it."""
    if name not in LOGARITHMIC:
        return _shortened(value)
    return _shortened(math.exp(value)) if math.exp(value) > LOGARITHMIC[name] else None


def _shortened(value: float) -> float:
    """With as many digits as matter, which keeps contracts short."""
    return float(f"{value:.{_DIGITS}g}")
