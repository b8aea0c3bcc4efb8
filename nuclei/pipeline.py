"""Frame -> tiles -> engine -> maps -> nuclei: the one way a frame is segmented, everywhere."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nuclei.contract import Contract
from nuclei.errors import EngineFailed
from nuclei.images import Frame
from nuclei.instances import Nuclei
from nuclei.intensity import intensity_range
from nuclei.measurement import measure
from nuclei.segmentation import Segmentation
from nuclei.tiles import TilePlan, cut, plan_tiles, stitch
from nuclei.watershed import label_nuclei

TTA_SUFFIX = "_tta"
VERSION_CHANGES = 3


@dataclass(frozen=True)
class Inference:
    """What an engine answers for one tile.

    Attributes:
        maps: uint8 [K, S, S] in the order of the contract's maps, 255 is probability 1.
        disagreement: uint8 [S, S], standard deviation of the foreground probability over the
            views, 255 is 1; 0 where there is one view.
        version: the model version that answered.
    """

    maps: NDArray[np.uint8]
    disagreement: NDArray[np.uint8]
    version: str


class Stopwatch:
    """Times the steps of one frame.

    Attributes:
        stage_ms: time of each step done, milliseconds.
    """

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time what happens inside, in whatever thread."""
        started = time.perf_counter()
        yield
        self.stage_ms[stage] = (time.perf_counter() - started) * 1000


class Engine(Protocol):
    """Runs the graphs of models: Triton, the same ONNX files in-process, or torch modules."""

    async def contract(self, model: str) -> Contract:
        """The contract of the version served now.

        Raises:
            ModelNotFound, EngineUnavailable.
        """
        ...

    async def infer(
        self,
        graph: str,
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        timeout_s: float | None,
    ) -> Inference:
        """Run one tile.

        Args:
            graph: name of the graph: a model's, or a model's with the suffix `_tta`.
            image: uint16 [S, S, C], S a multiple of the contract's stride, C 1 or 3.
            intensity: float32 [2], the range [lo, hi] of the whole frame.
            timeout_s: time left, seconds; None is for ever.

        Raises:
            ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
        """
        ...


@dataclass(frozen=True)
class Prediction:
    """The maps of one whole frame.

    Attributes:
        maps: uint8 [K, H, W] in the order of the contract's maps, 255 is probability 1.
        contract: of the version that answered.
        version: the model version that answered.
    """

    maps: NDArray[np.uint8]
    contract: Contract
    version: str


async def segment(
    frame: Frame,
    engine: Engine,
    model: str,
    *,
    tta: bool = False,
    timeout_s: float | None = None,
    executor: Executor | None = None,
    stopwatch: Stopwatch | None = None,
) -> Segmentation:
    """Segment one frame.

    Args:
        frame: pixels uint8 or uint16 [H, W, C].
        engine: what runs the graphs.
        model: name of the model.
        tta: average over the eight rotated and mirrored views.
        timeout_s: seconds until DeadlineExceeded; None is for ever.
        executor: where the work on pixels runs; None is the event loop's own threads.
        stopwatch: times the steps; None for a new one.

    Raises:
        ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
    """
    watch = stopwatch or Stopwatch()
    prediction = await predict(
        frame, engine, model, tta=tta, timeout_s=timeout_s, executor=executor, stopwatch=watch
    )
    loop = asyncio.get_running_loop()
    labels, nuclei = await loop.run_in_executor(executor, _label, frame, prediction, watch)
    return Segmentation(
        labels, nuclei, frame.pixel_size_um, model, prediction.version, watch.stage_ms
    )


async def predict(
    frame: Frame,
    engine: Engine,
    model: str,
    *,
    tta: bool = False,
    timeout_s: float | None = None,
    executor: Executor | None = None,
    stopwatch: Stopwatch | None = None,
) -> Prediction:
    """The maps of one frame, before post-processing; arguments and errors as `segment`."""
    watch = stopwatch or Stopwatch()
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    contract = await engine.contract(model)
    with watch.timed("tile"):
        plan, intensity, tiles = await loop.run_in_executor(executor, _cut, frame, contract)
    with watch.timed("infer"):
        graph = model + TTA_SUFFIX if tta else model
        inferences = await _infer(engine, graph, tiles, intensity, deadline)
    with watch.timed("stitch"):
        tile_maps = [inference.maps for inference in inferences]
        maps = await loop.run_in_executor(executor, stitch, tile_maps, plan)
    contract = await engine.contract(model)  # the answers may come from a newer version
    return Prediction(maps, contract, inferences[0].version)


def _cut(
    frame: Frame, contract: Contract
) -> tuple[TilePlan, NDArray[np.float32], list[NDArray[np.uint16]]]:
    height, width = frame.pixels.shape[:2]
    plan = plan_tiles(height, width, contract.tile_size, contract.halo, contract.stride)
    tiles = list(cut(frame.pixels.astype(np.uint16, copy=False), plan))
    return plan, intensity_range(frame.pixels), tiles


async def _infer(
    engine: Engine,
    graph: str,
    tiles: list[NDArray[np.uint16]],
    intensity: NDArray[np.float32],
    deadline: float | None,
) -> list[Inference]:
    """Answers for all tiles, from one model version: a swap under way asks for stale tiles anew."""
    loop = asyncio.get_running_loop()

    async def run(tile: NDArray[np.uint16]) -> Inference:
        left = None if deadline is None else deadline - loop.time()
        return await engine.infer(graph, tile, intensity, left)

    answers = await _together([run(tile) for tile in tiles])
    for _ in range(VERSION_CHANGES):
        newest = max(answers, key=lambda answer: int(answer.version)).version
        stale = [index for index, answer in enumerate(answers) if answer.version != newest]
        if not stale:
            return answers
        fresh = await _together([run(tiles[index]) for index in stale])
        for index, answer in zip(stale, fresh, strict=True):
            answers[index] = answer
    raise EngineFailed(f"{graph} kept changing its version during one frame; send the frame again")


async def _together(runs: list[Coroutine[Any, Any, Inference]]) -> list[Inference]:
    """Await all; the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _label(
    frame: Frame, prediction: Prediction, watch: Stopwatch
) -> tuple[NDArray[np.uint32], Nuclei]:
    contract = prediction.contract
    with watch.timed("watershed"):
        labels = label_nuclei(prediction.maps, contract.watershed)
    with watch.timed("measure"):
        foreground = prediction.maps[contract.maps.index("foreground")]
        return labels, measure(labels, frame.pixels, foreground)
