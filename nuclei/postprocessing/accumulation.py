"""The answers of a graph to the tiles of a frame, put together, and the nuclei in them.

One class for each kind of answer; `nuclei.inference.method` says which method uses which.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.tiles import TilePlan, place
from nuclei.postprocessing.consensus import ConsensusParameters, consensus
from nuclei.postprocessing.probability import LEVELS
from nuclei.postprocessing.rendering import RenderingParameters, render_masks, render_stars
from nuclei.postprocessing.watershed import WatershedParameters, label_nuclei

Outputs = Mapping[str, NDArray[Any]]
Check = Callable[[], None]
Labels = NDArray[np.uint32]
Scores = NDArray[np.float32]

Parameters = WatershedParameters | RenderingParameters | ConsensusParameters
# Pixels that are averaged at once: they are copied.
BLOCK_PX = 2**20


class Accumulator(Protocol):
    """The answers to the tiles of one frame."""

    def add(self, index: int, outputs: Outputs) -> None:
        """Take the answer to the tile with this index in the plan; it replaces an earlier one."""
        ...

    def label(self, parameters: Parameters, check: Check) -> tuple[Labels, Scores | None]:
        """The nuclei.

        Args:
            parameters: of the class that the method tunes.
            check: called at intervals; an exception that it raises ends the work.

        Returns:
            labels: uint32 [H, W], 0 is background, 1..N without gaps.
            scores: float32 [N], of each label; None where the score is the mean foreground.
        """
        ...

    @property
    def foreground(self) -> NDArray[np.uint8] | None:
        """uint8 [H, W], 255 is probability 1; None where there is none."""
        ...

    @property
    def disagreement(self) -> NDArray[np.uint8] | None:
        """uint8 [H, W], standard deviation of the foreground over the views of TTA, 255 is 1.

        None where there is none.
        """
        ...


class Maps:
    """Probability maps of the whole frame, for a watershed.

    Attributes:
        maps: uint8 [K, H, W] in the order of their names, 255 is probability 1.
        disagreement: as `Accumulator.disagreement`.
    """

    def __init__(self, outputs: tuple[str, ...], maps: tuple[str, ...], plan: TilePlan) -> None:
        """An empty one; arguments as `nuclei.inference.method.Method.accumulator` takes them.

        The first output is the maps; the second, where there is one, the disagreement of views.
        """
        self._output, *self._of_views = outputs
        self._foreground = maps.index("foreground")
        self._plan = plan
        shape = plan.height, plan.width
        self.maps = np.empty((len(maps), *shape), np.uint8)
        self.disagreement = np.empty(shape, np.uint8) if self._of_views else None

    def add(self, index: int, outputs: Outputs) -> None:
        """Take maps, uint8 [1, K, H, W], of a tile of H x W pixels, and disagreement [H, W]."""
        tile = self._plan.tiles[index]
        place(outputs[self._output][0], tile, self.maps)
        if self.disagreement is not None:
            (name,) = self._of_views
            place(outputs[name][None], tile, self.disagreement[None])

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

    A nucleus belongs to the tile whose part of the frame contains its centre, so the halo must be
    at least half a nucleus.
    """

    foreground = None
    disagreement = None
    render: ClassVar[Callable[..., tuple[Labels, Scores]]]

    def __init__(self, outputs: tuple[str, ...], maps: tuple[str, ...], plan: TilePlan) -> None:
        """An empty one; arguments as `nuclei.inference.method.Method.accumulator` takes them."""
        self._outputs = outputs
        self._plan = plan
        self._found: dict[int, tuple[NDArray[np.float32], Scores, NDArray[Any]]] = {}

    def add(self, index: int, outputs: Outputs) -> None:
        """Take the nuclei of a tile: their places, their scores float32 [N], and their shapes.

        Places are boxes float32 [N, 4] (y0, x0, y1, x1) or points float32 [N, 2] (y, x), pixels of
        the tile.
        """
        tile = self._plan.tiles[index]
        places, scores, shapes = (outputs[name] for name in self._outputs)
        pairs = (len(places), places.shape[1] // 2, 2)
        corners = places.reshape(pairs) + np.array((tile.y, tile.x), np.float32)
        y, x = corners.mean(axis=1).T
        rows, columns = tile.rows, tile.columns
        own = (rows.start <= y) & (y < rows.stop) & (columns.start <= x) & (x < columns.stop)
        of_frame = corners[own].reshape(-1, places.shape[1])
        self._found[index] = of_frame, scores[own], shapes[own]

    def label(
        self, parameters: Parameters, check: Check = lambda: None
    ) -> tuple[Labels, Scores | None]:
        assert isinstance(parameters, RenderingParameters)
        check()
        found = [self._found[index] for index in sorted(self._found)]
        places, scores, shapes = (np.concatenate(column) for column in zip(*found, strict=True))
        kept = scores >= parameters.min_score
        return self.render(
            places[kept],
            scores[kept],
            shapes[kept],
            (self._plan.height, self._plan.width),
            parameters.overlap,
            parameters.min_area_px,
            check,
        )


class Masks(Instances):
    """Nuclei as boxes and masks stretched over them: uint8 [N, M, M], 255 is probability 1."""

    render = staticmethod(render_masks)


class Stars(Instances):
    """Nuclei as points and the lengths of rays from them, float32 [N, R], pixels."""

    render = staticmethod(render_stars)


class Votes:
    """Maps for a watershed and nuclei found one by one, which vote on every nucleus."""

    disagreement = None

    def __init__(self, outputs: tuple[str, ...], maps: tuple[str, ...], plan: TilePlan) -> None:
        """An empty one; the outputs are those of `Masks`, then that of `Maps`."""
        self._masks = Masks(outputs[:3], (), plan)
        self._maps = Maps(outputs[3:], maps, plan)

    def add(self, index: int, outputs: Outputs) -> None:
        """Take what `Maps.add` and `Masks.add` take."""
        self._maps.add(index, outputs)
        self._masks.add(index, outputs)

    def label(
        self, parameters: Parameters, check: Check = lambda: None
    ) -> tuple[Labels, Scores | None]:
        assert isinstance(parameters, ConsensusParameters)
        overlap, min_area_px = parameters.overlap, parameters.min_area_px
        segmented, _ = self._maps.label(replace(parameters, min_score=0.0), check)
        check()
        scores = _means(segmented, self.foreground) / np.float32(LEVELS)
        drawn, drawn_scores = self._masks.label(
            RenderingParameters(0.0, overlap, min_area_px), check
        )
        assert drawn_scores is not None
        votes = (segmented, scores), (drawn, drawn_scores)
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
