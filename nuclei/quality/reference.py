"""What quality is measured against: the frames a model was calibrated with, in its contract."""

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field

from nuclei.postprocessing.parameters import CHECKED, Fraction
from nuclei.quality.sentences import TOO_HIGH, TOO_LOW
from nuclei.quoting import quoted
from nuclei.results.quality import Quality

Group = Literal["grey", "colour"]
GROUPS: tuple[Group, ...] = get_args(Group)
FEATURES = tuple(each.name for each in fields(Quality))
# 0, 5, .. 100 %.
LEVELS = tuple(percent / 100 for percent in range(0, 101, 5))


def _feature(name: str) -> str:
    if name not in FEATURES:
        raise ValueError(f"{quoted(name)} is no measure of quality")
    return name


def _rising(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if any(later < earlier for earlier, later in pairwise(numbers)):
        raise ValueError("the numbers do not rise")
    return numbers


# What measures are, with room; a number beyond is a fault of the file.
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
FeatureName = Annotated[str, AfterValidator(_feature)]
Numbers = Annotated[tuple[Number, ...], Field(max_length=256)]
Indices = Annotated[tuple[Annotated[int, Field(ge=-1, le=255)], ...], Field(max_length=256)]
Correlation = Annotated[float, Field(ge=-1, le=1)]


@dataclass(frozen=True)
class FeatureReference:
    """One measure on the frames of a calibration.

    Attributes:
        quantiles: of the frames, at `LEVELS`.
        limits: (lo, hi), outside of which a frame is doubtful; None where that side is no fault.
        drift_threshold: the population stability index above which the frames of a window are
            taken for others than those of the calibration.
    """

    __pydantic_config__: ClassVar = CHECKED

    quantiles: Annotated[
        tuple[Number, ...],
        Field(min_length=len(LEVELS), max_length=len(LEVELS)),
        AfterValidator(_rising),
    ]
    limits: tuple[Number | None, Number | None]
    drift_threshold: Annotated[float, Field(gt=0, le=1e6)]

    def __post_init__(self) -> None:
        lo, hi = self.limits
        if (lo is not None and lo > self.quantile(0.5)) or (
            hi is not None and hi < self.quantile(0.5)
        ):
            raise ValueError("the limits leave out the median")

    def admits(self, value: float) -> bool:
        """Whether a value is within the limits."""
        lo, hi = self.limits
        return (lo is None or value >= lo) and (hi is None or value <= hi)

    def quantile(self, level: float) -> float:
        """The quantile at one of `LEVELS`."""
        return self.quantiles[LEVELS.index(level)]


@dataclass(frozen=True)
class Tree:
    """A regression tree as arrays with an entry a node; node 0 is the root, children come later.

    Attributes:
        feature: index into the model's features by which a node parts frames; -1 for a leaf.
        threshold: frames with at most this value go left.
        left: index of the left child; -1 for a leaf.
        right: index of the right child; -1 for a leaf.
        value: what a leaf adds to the score.
    """

    __pydantic_config__: ClassVar = CHECKED

    feature: Indices
    threshold: Numbers
    left: Indices
    right: Indices
    value: Numbers

    def __post_init__(self) -> None:
        columns = (self.feature, self.threshold, self.left, self.right, self.value)
        if len({len(column) for column in columns}) != 1 or not self.feature:
            raise ValueError("the columns of a tree are of different lengths, or empty")
        for node, (feature, left, right) in enumerate(
            zip(self.feature, self.left, self.right, strict=True)
        ):
            # Children after their parent: no walk can go round in circles.
            if feature >= 0 and not (node < left < len(self.feature) > right > node):
                raise ValueError(f"node {node} of a tree has impossible children")


@dataclass(frozen=True)
class ScoreModel:
    """Estimates the DSB score of a frame from its other measures: gradient-boosted trees.

    Attributes:
        features: the measures that it looks at.
        domain: (lo, hi) of each, what the trees have seen; outside, the score is unknown.
        base: the score before any tree.
        trees: whose values are added.
        error: mean absolute error on frames of sources that the trees have not seen.
        correlation: Spearman's, of estimated and true score, on the same frames.
        sources: of how many sources the frames were; 1 when they were parted at random.
    """

    __pydantic_config__: ClassVar = CHECKED

    features: Annotated[tuple[FeatureName, ...], Field(min_length=1, max_length=len(FEATURES))]
    domain: Annotated[
        tuple[tuple[Number, Number], ...], Field(min_length=1, max_length=len(FEATURES))
    ]
    base: Number
    trees: Annotated[tuple[Tree, ...], Field(max_length=512)]
    error: Fraction
    correlation: Correlation
    sources: Annotated[int, Field(ge=1, le=1024)]

    def __post_init__(self) -> None:
        if len(self.domain) != len(self.features):
            raise ValueError("there are not as many domains as features")
        if any(max(tree.feature) >= len(self.features) for tree in self.trees):
            raise ValueError("a tree looks at a feature that is not there")


@dataclass(frozen=True)
class GroupReference:
    """The frames of one group in a calibration.

    Attributes:
        frames: how many there were.
        false_alarm_rate: share of frames like these that get a warning, whichever.
        features: the measures known for them.
        score: estimates scores; None when there were too few frames to learn from.
    """

    __pydantic_config__: ClassVar = CHECKED

    frames: Annotated[int, Field(ge=1, le=2**31)]
    false_alarm_rate: Fraction
    features: Annotated[dict[FeatureName, FeatureReference], Field(max_length=len(FEATURES))]
    score: ScoreModel | None = None

    def __post_init__(self) -> None:
        for name, feature in self.features.items():
            for limit, sentences in zip(feature.limits, (TOO_LOW, TOO_HIGH), strict=True):
                if limit is not None and name not in sentences:
                    raise ValueError(f"{name} has a limit on a side that is no fault")


@dataclass(frozen=True)
class QualityReference:
    """The calibration of the measures of quality for one model version.

    Attributes:
        groups: the frames, grey and colour apart; a group is missing when there were too few.
        window: number of frames over which drift is looked for.
        frames_per_day: assumed for `false_alarms_per_day`.
        false_alarms_per_day: probability that a group has an alarm of drift on a day on which its
            frames are drawn at random from those of the calibration.
    """

    __pydantic_config__: ClassVar = CHECKED

    groups: dict[Group, GroupReference]
    window: Annotated[int, Field(ge=10, le=100_000)]
    frames_per_day: Annotated[int, Field(ge=1, le=10**9)]
    false_alarms_per_day: Annotated[float, Field(gt=0, le=1)]
