"""What the answers to a frame's tiles add up to, and the nuclei that come of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.tiles import TilePlan, place
from nuclei.inference.contract import (
    ConsensusParameters,
    Contract,
    Method,
    Parameters,
    RenderingParameters,
    WatershedParameters,
)
from nuclei.postprocessing.consensus import consensus
from nuclei.postprocessing.rendering import LEVELS, render_masks, render_stars
from nuclei.postprocessing.watershed import label_nuclei

Outputs = Mapping[str, NDArray[Any]]
Check = Callable[[], None]
Labels = NDArray[np.uint32]
Scores = NDArray[np.float32]

# Names of the tensors that a graph gives for a tile.
OUTPUTS: dict[Method, tuple[str, ...]] = {
    Method.WATERSHED: ("MAPS",),
    Method.MASKS: ("BOXES", "SCORES", "MASKS"),
    Method.STARS: ("POINTS", "SCORES", "RAYS"),
    Method.PROMPTED: ("BOXES", "SCORES", "MASKS"),
    Method.CONSENSUS: ("BOXES", "SCORES", "MASKS", "MAPS"),
}
# Pixels that are averaged at once, for they are copied.
BLOCK_PX = 2**20

_Render = Callable[..., tuple[Labels, Scores]]
_RENDER: dict[Method, _Render] = {
    Method.MASKS: render_masks,
    Method.STARS: render_stars,
    Method.PROMPTED: render_masks,
}


class Accumulator(Protocol):
    """The answers of one frame."""

    def add(self, index: int, outputs: Outputs) -> None:
        """Take the answer to a tile of the plan, in place of an earlier one."""
        ...

    def label(self, parameters: Parameters, check: Check) -> tuple[Labels, Scores | None]:
        """The nuclei.

        Args:
            parameters: of the contract's method.
            check: called now and then; what it raises ends the work.

        Returns:
            labels: uint32 [H, W], 0 is background, 1..N without gaps.
            scores: float32 [N], of each label; None where it is the mean of the foreground.
        """
        ...

    @property
    def foreground(self) -> NDArray[np.uint8] | None:
        """uint8 [H, W], 255 is probability 1; None where there is none."""
        ...


def accumulator_for(contract: Contract, plan: TilePlan) -> Accumulator:
    """An empty one for the frame of this plan."""
    if contract.method is Method.WATERSHED:
        return Maps(contract, plan)
    if contract.method is Method.CONSENSUS:
        return Votes(contract, plan)
    return Instances(contract, plan)


class Maps:
    """Probability maps of the whole frame, for a watershed.

    Attributes:
        maps: uint8 [K, H, W] in the order of the contract's maps, 255 is probability 1.
    """

    def __init__(self, contract: Contract, plan: TilePlan) -> None:
        self._foreground = contract.maps.index("foreground")
        self._plan = plan
        self.maps = np.empty((len(contract.maps), plan.height, plan.width), np.uint8)

    def add(self, index: int, outputs: Outputs) -> None:
        """MAPS uint8 [1, K, S, S]."""
        place(outputs["MAPS"][0], self._plan.tiles[index], self.maps)

    def label(
        self, parameters: Parameters, check: Check = lambda: None
    ) -> tuple[Labels, Scores | None]:
        assert isinstance(parameters, WatershedParameters)
        return label_nuclei(self.maps, parameters, check), None

    @property
    def foreground(self) -> NDArray[np.uint8]:
        return np.asarray(self.maps[self._foreground])


class Instances:
    """Nuclei found one by one, in tiles that overlap.

    A nucleus belongs to the tile in whose part of the frame its centre lies: the halo is to be
    half a nucleus at least.
    """

    foreground = None

    def __init__(self, contract: Contract, plan: TilePlan) -> None:
        self._outputs, self._render = OUTPUTS[contract.method], _RENDER[contract.method]
        self._plan = plan
        self._found: dict[int, tuple[NDArray[np.float32], Scores, NDArray[Any]]] = {}

    def add(self, index: int, outputs: Outputs) -> None:
        """BOXES float32 [N, 4] (y0, x0, y1, x1), SCORES float32 [N], MASKS uint8 [N, M, M].

        Or POINTS float32 [N, 2] (y, x), SCORES float32 [N], RAYS float32 [N, R]. Pixels of the
        tile.
        """
        tile = self._plan.tiles[index]
        where, scores, what = (outputs[name] for name in self._outputs)
        pairs = (len(where), where.shape[1] // 2, 2)
        corners = where.reshape(pairs) + np.array((tile.y, tile.x), np.float32)
        y, x = corners.mean(axis=1).T
        rows, columns = tile.rows, tile.columns
        own = (rows.start <= y) & (y < rows.stop) & (columns.start <= x) & (x < columns.stop)
        self._found[index] = corners[own].reshape(-1, where.shape[1]), scores[own], what[own]

    def label(
        self, parameters: Parameters, check: Check = lambda: None
    ) -> tuple[Labels, Scores | None]:
        assert isinstance(parameters, RenderingParameters)
        check()
        found = [self._found[index] for index in sorted(self._found)]
        where, scores, what = (np.concatenate(column) for column in zip(*found, strict=True))
        sure = scores >= parameters.min_score
        return self._render(
            where[sure],
            scores[sure],
            what[sure],
            (self._plan.height, self._plan.width),
            parameters.overlap,
            parameters.min_area_px,
        )


class Votes:
    """Maps for a watershed and nuclei found one by one, which vote on every nucleus."""

    def __init__(self, contract: Contract, plan: TilePlan) -> None:
        self._maps = Maps(contract, plan)
        self._found = Instances(replace(contract, method=Method.MASKS), plan)

    def add(self, index: int, outputs: Outputs) -> None:
        """MAPS as `Maps.add`; BOXES, SCORES and MASKS as `Instances.add`."""
        self._maps.add(index, outputs)
        self._found.add(index, outputs)

    def label(
        self, parameters: Parameters, check: Check = lambda: None
    ) -> tuple[Labels, Scores | None]:
        assert isinstance(parameters, ConsensusParameters)
        overlap, min_area_px = parameters.overlap, parameters.min_area_px
        basins, _ = self._maps.label(replace(parameters, min_score=0.0), check)
        sure = _means(basins, self.foreground) / np.float32(LEVELS)
        found, scores = self._found.label(RenderingParameters(0.0, overlap, min_area_px), check)
        assert scores is not None
        votes = (basins, sure), (found, scores)
        return consensus(*votes, parameters.min_score, overlap, min_area_px, check)

    @property
    def foreground(self) -> NDArray[np.uint8]:
        return self._maps.foreground


def _means(labels: Labels, values: NDArray[np.uint8]) -> Scores:
    """The mean value of each label, float32 [N]."""
    count = int(labels.max(initial=0)) + 1
    area, total = np.zeros(count), np.zeros(count)
    for start in range(0, labels.size, BLOCK_PX):
        block = slice(start, start + BLOCK_PX)
        area += np.bincount(labels.flat[block], minlength=count)
        total += np.bincount(labels.flat[block], values.flat[block], count)
    return (total[1:] / area[1:]).astype(np.float32)
