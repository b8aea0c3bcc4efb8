"""What is doubtful about a frame, compared with the frames that its model was calibrated with."""

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from nuclei.imaging.colour import is_grey
from nuclei.quality.reference import Group, QualityReference, ScoreModel, Tree
from nuclei.quality.sentences import said
from nuclei.results.quality import Quality


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
        group: of the frame, with which it was compared.
        doubts: one for each measure that is outside of its limits.
    """

    quality: Quality
    group: Group
    doubts: tuple[Doubt, ...] = ()


def group_of(pixels: NDArray[Any]) -> Group:
    """Whether pixels [H, W, C] have a colour: three channels that differ."""
    return "grey" if is_grey(pixels) else "colour"


def judge(quality: Quality, reference: QualityReference | None, group: Group) -> Judgement:
    """Estimate the score of a frame, and say which measures are outside of their limits.

    Args:
        quality: measures of the frame, without an estimated score.
        reference: of the model that segmented it; None says nothing.
        group: of the frame (`group_of`).
    """
    frames = None if reference is None else reference.groups.get(group)
    if frames is None:
        return Judgement(quality, group)
    if frames.score is not None:
        quality = replace(quality, estimated_score=estimated_score(quality, frames.score))
    doubts = []
    for kind, feature in frames.features.items():
        value = getattr(quality, kind)
        if value is not None and not feature.admits(value):
            doubts.append(Doubt(kind, said(kind, value, feature.quantile(0.5))))
    return Judgement(quality, group, tuple(doubts))


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
