"""Post-processing parameters tuned on validation images."""

import asyncio
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
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.method import Method
from nuclei.inference.pipeline import predict
from nuclei.postprocessing.accumulation import Accumulator, Parameters
from nuclei.postprocessing.consensus import ConsensusParameters
from nuclei.postprocessing.rendering import RenderingParameters
from nuclei.postprocessing.watershed import WatershedParameters
from training.data.dataset import Sample

WATERSHED: dict[str, tuple[float, ...]] = {
    "foreground_threshold": (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75),
    "h": (0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.22, 0.3, 0.4),
    "smoothing_px": (0.0, 0.5, 1.0, 1.5, 2.0),
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

    Every modality of a source weighs the square root of its count in that mean, as in training:
    otherwise the parameters would suit only the most common one.
    """

    def __init__(
        self,
        method: Method,
        samples: Sequence[Sample],
        predicted: Sequence[Accumulator],
        known: Parameters | None = None,
    ) -> None:
        """Take validation samples and what a model answers to them.

        Args:
            method: of post-processing.
            samples: with their nuclei.
            predicted: answers to them.
            known: parameters that are good already: of equal ones they are kept.
        """
        self._method = method
        self._known = known
        self._samples = samples
        self._predicted = predicted
        kinds = [(sample.source, sample.modality) for sample in samples]
        counts = Counter(kinds)
        self._weights = np.array([counts[kind] ** -0.5 for kind in kinds])
        self._scores: dict[Parameters, NDArray[np.float64]] = {}

    def scores(self, parameters: Parameters) -> NDArray[np.float64]:
        """DSB score of every sample, float64 [N]."""
        if parameters not in self._scores:
            self._scores[parameters] = np.array(
                [
                    Overlap.of(sample.labels, labelled(one, parameters)).dsb_score()
                    for sample, one in zip(self._samples, self._predicted, strict=True)
                ]
            )
        return self._scores[parameters]

    def best(self, chosen: NDArray[np.intp]) -> Parameters:
        """Best parameters for the samples of these indices."""

        def mean(parameters: Parameters) -> float:
            scores = self.scores(parameters)[chosen]
            return float(np.average(scores, weights=self._weights[chosen]))

        search = SEARCHES[self._method]
        starts = search.starts if self._known is None else (self._known, *search.starts)
        start = max(starts, key=mean)
        return coordinate_search(start, search.grid, _changed, mean, ROUNDS)

    def cross_validated_score(self, seed: int) -> float:
        """Mean DSB score of each half of the samples with parameters tuned on the other half.

        Shows what tuning gains on images it has not seen; needs two samples or more.
        """
        order = np.random.default_rng(seed).permutation(len(self._samples))
        halves = np.array_split(order, 2)
        scores = [self.scores(self.best(there))[here] for here, there in (halves, halves[::-1])]
        return float(np.concatenate(scores).mean())


def labelled(predicted: Accumulator, parameters: Parameters) -> NDArray[np.uint32]:
    """The nuclei, uint32 [H, W]."""
    labels, _ = predicted.label(parameters, lambda: None)
    return labels


def _changed(parameters: Parameters, name: str, value: float) -> Parameters:
    changed: Parameters = replace(parameters, **{**asdict(parameters), name: value})
    return changed
