"""What is doubtful about a frame, compared with the frames that its model was calibrated with."""

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from nuclei.quality.reference import FeatureReference, Group, QualityReference, ScoreModel, Tree
from nuclei.results.quality import Quality

USUAL = "than the images that the model was calibrated with"
# The variance of the Laplacian falls with the fourth power of the width of details.
FOCUS_POWER = 4


@dataclass(frozen=True)
class Doubt:
    """Something that is off.

    Attributes:
        kind: name of the measure that is outside of its limits, a field of `Quality`.
        sentence: what is off, with a multiple that a person understands.
    """

    kind: str
    sentence: str


@dataclass(frozen=True)
class Judgement:
    """What a reference says about a frame.

    Attributes:
        quality: with the estimated score.
        doubts: one for each measure that is outside of its limits.
    """

    quality: Quality
    doubts: tuple[Doubt, ...] = ()


def group_of(pixels: NDArray[Any]) -> Group:
    """Whether pixels [H, W, C] have a colour: three channels that differ."""
    if pixels.shape[2] == 1:
        return "grey"
    # A few rows tell almost always; all of them are looked at only where these are grey.
    for rows in (pixels[:: max(1, len(pixels) // 16)], pixels):
        red = rows[..., 0]
        if any((red != rows[..., channel]).any() for channel in (1, 2)):
            return "colour"
    return "grey"


def judge(quality: Quality, reference: QualityReference | None, group: Group) -> Judgement:
    """Estimate the score of a frame, and say which measures are outside of their limits.

    Args:
        quality: measures of the frame, without an estimated score.
        reference: of the model that segmented it; None says nothing.
        group: of the frame (`group_of`).
    """
    frames = None if reference is None else reference.groups.get(group)
    if frames is None:
        return Judgement(quality)
    if frames.score is not None:
        quality = replace(quality, estimated_score=estimated_score(quality, frames.score))
    doubts = []
    for kind, feature in frames.features.items():
        value = getattr(quality, kind)
        if value is not None and (sentence := _sentence(kind, value, feature)) is not None:
            doubts.append(Doubt(kind, sentence))
    return Judgement(quality, tuple(doubts))


def estimated_score(quality: Quality, model: ScoreModel) -> float | None:
    """The DSB score that a frame is expected to reach, 0 to 1.

    None is unknown: a measure that the model looks at is not known, or lies outside of its domain.
    """
    values = []
    for name, (lo, hi) in zip(model.features, model.domain, strict=True):
        value = getattr(quality, name)
        if value is None or not lo <= value <= hi:
            return None
        values.append(value)
    score = model.base + sum(_value(tree, values) for tree in model.trees)
    return min(max(score, 0.0), 1.0)


def _value(tree: Tree, values: list[float]) -> float:
    """What a tree adds to the score."""
    node = 0
    while (feature := tree.feature[node]) >= 0:
        goes_left = values[feature] <= tree.threshold[node]
        node = tree.left[node] if goes_left else tree.right[node]
    return tree.value[node]


def _sentence(kind: str, value: float, feature: FeatureReference) -> str | None:
    """What is off about a measure; None where it is within its limits."""
    lo, hi = feature.limits
    usual = feature.quantile(0.5)
    if lo is not None and value < lo:
        return _TOO_LOW[kind].format(
            value=value,
            usual=usual,
            times=_times(usual, value),
            blurrier=_times(usual, value, 1 / FOCUS_POWER),
        )
    if hi is not None and value > hi:
        return _TOO_HIGH[kind].format(value=value, usual=usual, times=_times(value, usual))
    return None


def _times(larger: float, smaller: float, power: float = 1) -> str:
    """How many times one number is the other, with two digits."""
    if smaller <= 0 or larger / smaller > 10_000:
        return "far"
    return f"{(larger / smaller) ** power:.2g} times"


# Measures that are not here have no limits: what they tell belongs to the specimen.
_TOO_LOW = {
    "focus": f"out of focus: {{blurrier}} blurrier {USUAL}",
    "dynamic_range": f"underexposed: {{times}} less of the camera's range is used {USUAL} do",
    "signal_to_noise": f"noisy: the signal is {{times}} weaker, compared with the noise, {USUAL}",
    "median_area_px": (
        f"small nuclei: {{times}} smaller in area {USUAL} have; check the magnification, or give "
        "the pixel size"
    ),
    "mean_probability": (
        "the model is unsure: its mean probability in nuclei is {value:.2f}; {usual:.2f} is usual"
    ),
    "pixel_size_ratio": f"the pixels are {{times}} smaller {USUAL}",
    "estimated_score": (
        "a poor result is likely: the estimated DSB score is {value:.2f}; {usual:.2f} is usual"
    ),
}
_TOO_HIGH = {
    "saturated": (
        "overexposed: {value:.2%} of the pixels are at the camera's largest value; {usual:.2%} is "
        "usual"
    ),
    "median_area_px": (
        f"large nuclei: {{times}} larger in area {USUAL} have; check the magnification, or give "
        "the pixel size"
    ),
    "area_spread": (
        f"nuclei of very different sizes: the areas spread {{times}} more {USUAL} have; look for "
        "debris and for nuclei that were merged"
    ),
    "boundary_entropy": (
        f"the outlines are unsure: their entropy is {{times}} higher {USUAL} have"
    ),
    "near_threshold": (
        f"the outlines are unsure: {{times}} more pixels are near the threshold {USUAL} have"
    ),
    "tta_disagreement": f"the rotated views disagree {{times}} more {USUAL}",
    "pixel_size_ratio": f"the pixels are {{times}} larger {USUAL}",
}
# The sides of each measure that have a sentence: (too low, too high).
SIDES = {kind: (kind in _TOO_LOW, kind in _TOO_HIGH) for kind in sorted({*_TOO_LOW, *_TOO_HIGH})}
