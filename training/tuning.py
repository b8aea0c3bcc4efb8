"""Post-processing parameters tuned on validation images."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.console import tracked
from nuclei.evaluation.metrics import Overlap
from nuclei.imaging.images import frame_from_array
from nuclei.inference import method
from nuclei.inference.contract import Contract
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.method import Method
from nuclei.inference.pipeline import predict
from nuclei.postprocessing.accumulation import Accumulator, Parameters
from nuclei.postprocessing.consensus import ConsensusParameters
from nuclei.postprocessing.rendering import RenderingParameters
from nuclei.postprocessing.watershed import WatershedParameters
from nuclei.quality.judgement import group_of
from nuclei.quality.reference import GROUPS
from training.data.dataset import Sample

WATERSHED: dict[str, tuple[float, ...]] = {
    "foreground_threshold": (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75),
    "h": (0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.22, 0.3, 0.4),
    "smoothing_px": (0.0, 0.5, 1.0, 1.5, 2.0),
    "smoothing_diameters": (0.0, 0.05, 0.075, 0.1, 0.125, 0.15),
    "border_weight": (0.0, 0.25, 0.5, 0.75, 1.0),
    "min_area_px": (8, 16, 24, 32, 48),
    "min_score": (0.0, 0.6, 0.7, 0.75, 0.8, 0.82, 0.85, 0.88, 0.9),
}
RENDERING: dict[str, tuple[float, ...]] = {
    "min_score": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "overlap": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    "min_area_px": (8, 16, 24, 32, 48),
}
CONSENSUS: dict[str, tuple[float, ...]] = {
    **WATERSHED,
    "min_score": (0.2, 0.25, 0.3, 0.35, 0.4, 0.42, 0.44, 0.46, 0.48, 0.5, 0.6, 0.7),
    "overlap": RENDERING["overlap"],
}
Grid = Mapping[str, Sequence[float]]
State = TypeVar("State")
T = TypeVar("T")


@dataclass(frozen=True)
class Search:
    """The search space of a method's parameters.

    Attributes:
        grid: the values that are tried, by parameter.
        starts: possible starting points; the search begins at the best of them.
    """

    grid: Grid
    starts: tuple[Parameters, ...]


_OF_RENDERING = Search(RENDERING, (RenderingParameters(),))
SEARCHES: dict[Method, Search] = {
    method.WATERSHED: Search(
        WATERSHED,
        (
            WatershedParameters(),
            # For networks that are unsure everywhere: no change of one parameter leads here.
            WatershedParameters(foreground_threshold=0.5, h=0.1, min_score=0.0),
        ),
    ),
    method.MASKS: _OF_RENDERING,
    method.STARS: _OF_RENDERING,
    method.PROMPTED: _OF_RENDERING,
    method.CONSENSUS: Search(CONSENSUS, (ConsensusParameters(),)),
}
ROUNDS = 3
# How much more than a gain a loss counts against the model that training goes on from, where it is
# more than chance: nobody promotes a model that is worse on the images of those who use it.
AVERSION = 4
# Images in colour, and as many grey ones, from which parameters are tuned for each.
APART = 20


def coordinate_search(
    start: State,
    grid: Grid,
    change: Callable[[State, str, float], State],
    score: Callable[[State], float],
    rounds: int,
) -> State:
    """The best point found by trying the values of one coordinate after the other.

    Args:
        start: where to begin.
        grid: the values that are tried, by coordinate.
        change: a point with another value of one coordinate.
        score: of a point; higher is better, and of equal points the earlier is kept.
        rounds: how often to go through all coordinates.
    """
    best = start
    for _ in range(rounds):
        for name, values in tracked(grid.items(), "tuning", len(grid)):
            best = max([best, *(change(best, name, value) for value in values)], key=score)
    return best


def predict_all(
    samples: Sequence[Sample], engine: Engine, served: ServedVersion, tta: bool
) -> list[Accumulator]:
    """The outputs of a model's engine for every sample."""

    async def run(sample: Sample) -> Accumulator:
        frame = frame_from_array(sample.pixels)
        return (await predict(frame, engine, served, tta=tta)).accumulator

    shown = tracked(samples, "predicting", len(samples))
    return [asyncio.run(run(sample)) for sample in shown]


class Tuner:
    """Searches the parameters of post-processing, one at a time, for the best mean DSB score.

    Frames in colour get parameters of their own where there are enough of them and of grey ones;
    a contract that has them keeps those of the kind of which there are no samples, or too few.
    Every modality of a source weighs the square root of its count in that mean, as in training:
    otherwise the parameters would suit only the most common one. What one of them loses against
    the parameters of a contract that has some for either kind, beyond the standard error of its
    mean, counts AVERSION times.
    """

    def __init__(
        self,
        contract: Contract,
        samples: Sequence[Sample],
        predicted: Sequence[Accumulator],
    ) -> None:
        """Take validation samples and what a model answers to them.

        Args:
            contract: of the model; of parameters that are equally good its own are kept.
            samples: with their nuclei.
            predicted: answers to them.
        """
        self._contract = contract
        self._samples = samples
        self._predicted = predicted
        self._groups = np.array([group_of(sample.pixels) for sample in samples])
        kinds = [(sample.source, sample.modality) for sample in samples]
        counts = Counter(kinds)
        self._weights = np.array([counts[kind] ** -0.5 for kind in kinds])
        self._kinds = np.array([list(counts).index(kind) for kind in kinds])
        self._scores: dict[tuple[Parameters, str], NDArray[np.float64]] = {}

    def scores(self, contract: Contract) -> NDArray[np.float64]:
        """DSB score of every sample with a contract's parameters, float64 [N]."""
        return self._assembled(contract.parameters)

    def best(self, chosen: NDArray[np.intp]) -> Contract:
        """The contract with the best parameters for the samples of these indices."""
        grey, colour = (chosen[self._groups[chosen] == group] for group in GROUPS)
        contract, known = self._contract, self._known
        if known and (not len(colour) or len(colour) < APART <= len(grey)):
            return replace(contract, postprocessing=self._best(grey))
        if known and (not len(grey) or len(grey) < APART <= len(colour)):
            return replace(contract, colour_postprocessing=self._best(colour))
        if min(len(grey), len(colour)) < APART:
            return replace(contract, postprocessing=self._best(chosen), colour_postprocessing=None)
        return replace(
            contract, postprocessing=self._best(grey), colour_postprocessing=self._best(colour)
        )

    @property
    def _known(self) -> bool:
        return self._contract.colour_postprocessing is not None

    def _best(self, chosen: NDArray[np.intp]) -> Parameters:
        groups = set(self._groups[chosen])
        weights = self._weights[chosen]
        kinds = self._kinds[chosen]
        members = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        before = self._assembled(self._contract.parameters)[chosen]

        def mean(parameters: Parameters) -> float:
            gains = self._assembled(dict.fromkeys(groups, parameters))[chosen] - before
            found = float(np.sum(weights * gains))
            if not self._known:
                return found
            lost = sum(float(weights[one].sum()) * _lost(gains[one]) for one in members)
            return found - (AVERSION - 1) * lost

        search = SEARCHES[self._contract.method]
        start = max((*self._contract.parameters.values(), *search.starts), key=mean)
        return coordinate_search(start, search.grid, _changed, mean, ROUNDS)

    def _assembled(self, parameters: Mapping[str, Parameters]) -> NDArray[np.float64]:
        """DSB scores, float64 [N], with the parameters of each group; NaN in groups without."""
        scores = np.full(len(self._samples), np.nan)
        for group, own in parameters.items():
            indices = np.flatnonzero(self._groups == group).tolist()
            if (own, group) not in self._scores:
                self._scores[own, group] = np.array([self._score(index, own) for index in indices])
            scores[indices] = self._scores[own, group]
        return scores

    def _score(self, index: int, parameters: Parameters) -> float:
        labels = labelled(self._predicted[index], parameters)
        return Overlap.of(self._samples[index].labels, labels).dsb_score()

    def cross_validated_score(self, seed: int) -> float:
        """Mean DSB score of each half of the samples with parameters tuned on the other half.

        Shows what tuning gains on images it has not seen; needs two samples or more.
        """
        order = np.random.default_rng(seed).permutation(len(self._samples))
        halves = np.array_split(order, 2)
        scores = [self.scores(self.best(there))[here] for here, there in (halves, halves[::-1])]
        return float(np.concatenate(scores).mean())


def labelled_all(
    samples: Sequence[Sample], predicted: Sequence[Accumulator], contract: Contract
) -> list[NDArray[np.uint32]]:
    """The nuclei in each sample, with the parameters of its kind, uint32 [H, W]."""
    return [
        labelled(one, contract.parameters[group_of(sample.pixels)])
        for sample, one in zip(samples, predicted, strict=True)
    ]


def labelled(predicted: Accumulator, parameters: Parameters) -> NDArray[np.uint32]:
    """The nuclei, uint32 [H, W]."""
    labels, _ = predicted.label(parameters, lambda: None)
    return labels


def _lost(gains: NDArray[np.float64]) -> float:
    """What images lose on average, beyond the standard error of that; 0 where that is unknown."""
    if len(gains) < 2:
        return 0.0
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return max(0.0, -float(gains.mean()) - error)


def _changed(parameters: Parameters, name: str, value: float) -> Parameters:
    changed: Parameters = replace(parameters, **{**asdict(parameters), name: value})
    return changed
