"""Frame -> tiles -> engine -> maps -> nuclei: the one way a frame is segmented, everywhere."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import EngineFailed
from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import intensity_range
from nuclei.imaging.tiles import TilePlan, cut, mirrored, plan_tiles
from nuclei.inference.contract import Contract, Method
from nuclei.inference.deadline import NEVER, Deadline
from nuclei.postprocessing.accumulation import OUTPUTS, Accumulator, Outputs, accumulator_for
from nuclei.postprocessing.measurement import measure
from nuclei.postprocessing.watershed import BAND_PX
from nuclei.results.nuclei import Nuclei
from nuclei.results.segmentation import Segmentation

TTA_SUFFIX = "_tta"
TTA_VIEWS = 8
VERSION_CHANGES = 3
# Tiles of one frame that are cut and given to the engine before the first of them is answered.
TILES_IN_FLIGHT_PX = 2**22

# What one pixel of a band takes: its height, before and after smoothing, and lists of saddles.
LANDSCAPE_BYTES = 16
# A frame smaller than its tile is continued by at most this.
MIRRORED_PX = 2**16
# A tile on its way to the engine exists as an array and as messages.
TILE_COPIES = 3

Result = TypeVar("Result")


@dataclass(frozen=True)
class Inference:
    """What an engine answers for one tile.

    Attributes:
        outputs: the tensors of the graph's method, by name.
        version: the model version that answered.
    """

    outputs: Outputs
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
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Inference:
        """Run one tile.

        Args:
            graph: name of the graph: a model's, or a model's with the suffix `_tta`.
            outputs: names of the tensors that are wanted.
            image: uint16 [S, S, C], S a multiple of the contract's stride, C 1 or 3.
            intensity: float32 [2], the range [lo, hi] of the whole frame.
            deadline: when the caller gives up.

        Raises:
            ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
        """
        ...


@dataclass(frozen=True)
class Prediction:
    """The answers to one whole frame.

    Attributes:
        accumulator: of the answers to its tiles.
        contract: of the version that answered.
        version: the model version that answered.
    """

    accumulator: Accumulator
    contract: Contract
    version: str


async def segment(
    frame: Frame,
    engine: Engine,
    model: str,
    *,
    tta: bool = False,
    deadline: Deadline = NEVER,
    executor: Executor | None = None,
    stopwatch: Stopwatch | None = None,
) -> Segmentation:
    """Segment one frame.

    Args:
        frame: pixels uint8 or uint16 [H, W, C].
        engine: what runs the graphs.
        model: name of the model.
        tta: average over the eight rotated and mirrored views.
        deadline: when the caller gives up; never by default.
        executor: where the work on pixels runs; None is the event loop's own threads.
        stopwatch: times the steps; None for a new one.

    Raises:
        ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
    """
    watch = stopwatch or Stopwatch()
    prediction = await predict(
        frame, engine, model, tta=tta, deadline=deadline, executor=executor, stopwatch=watch
    )
    labels, nuclei = await _off_loop(executor, deadline, _label, frame, prediction, watch)
    return Segmentation(
        labels, nuclei, frame.pixel_size_um, model, prediction.version, watch.stage_ms
    )


async def predict(
    frame: Frame,
    engine: Engine,
    model: str,
    *,
    tta: bool = False,
    deadline: Deadline = NEVER,
    executor: Executor | None = None,
    stopwatch: Stopwatch | None = None,
) -> Prediction:
    """The answers to one frame, before post-processing; arguments and errors as `segment`."""
    watch = stopwatch or Stopwatch()
    contract = await engine.contract(model)
    height, width = frame.pixels.shape[:2]
    with watch.timed("tile"):
        plan = plan_tiles(height, width, contract.tile_size, contract.halo, contract.stride)
        pixels, intensity = await _off_loop(executor, deadline, _prepare, frame, plan)
    with watch.timed("infer"):
        graph = model + TTA_SUFFIX if tta else model
        accumulator = accumulator_for(contract, plan)
        ask = partial(engine.infer, graph, OUTPUTS[contract.method])
        version = await _infer(ask, pixels, plan, intensity, deadline, accumulator)
    contract = await engine.contract(model)  # the answers may come from a newer version
    return Prediction(accumulator, contract, version)


def memory_bytes(
    height: int, width: int, channels: int, itemsize: int, method: Method = Method.WATERSHED
) -> int:
    """Memory that segmenting a frame takes at its peak, the frame's own pixels included.

    Args:
        height, width, channels: of the frame, [H, W, C].
        itemsize: bytes of one value, 1 or 2.
        method: of the model.
    """
    pixels = height * width
    # The frame, three maps and the labels; one byte more pays for the tables of the nuclei.
    whole = pixels * (channels * itemsize + 3 + 4 + 1)
    band = min(pixels, BAND_PX) * LANDSCAPE_BYTES
    tiles = min(pixels + MIRRORED_PX, TILES_IN_FLIGHT_PX) * (2 * channels + 3) * TILE_COPIES
    # When all else is done, a vote compares the label images of two segmenters.
    vote = 2 * 4 * pixels if method is Method.CONSENSUS else 0
    return whole + max(band + tiles, vote)


async def _off_loop(
    executor: Executor | None, deadline: Deadline, step: Callable[..., Result], *arguments: object
) -> Result:
    """Run a step with these arguments and a check, which ends it once nobody waits any more."""
    left = threading.Event()

    def check() -> None:
        if left.is_set():
            raise CancelledError
        deadline.check("while the frame was in work")

    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, partial(step, *arguments, check))
    finally:
        left.set()


def _prepare(
    frame: Frame, plan: TilePlan, check: Callable[[], None]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The pixels from which tiles are cut, and their range."""
    check()
    return mirrored(frame.pixels, plan), intensity_range(frame.pixels)


async def _infer(
    ask: Callable[..., Awaitable[Inference]],
    pixels: NDArray[Any],
    plan: TilePlan,
    intensity: NDArray[np.float32],
    deadline: Deadline,
    accumulator: Accumulator,
) -> str:
    """Assemble the answers to a frame, from one model version, which is returned.

    Tiles are cut as they are sent. When a swap is under way, stale tiles are asked for anew.
    """
    room = asyncio.Semaphore(max(1, TILES_IN_FLIGHT_PX // plan.size**2))

    async def run(index: int) -> str:
        tile = plan.tiles[index]
        async with room:
            part = cut(pixels, tile, plan)
            answer = await ask(part, intensity, deadline)
        accumulator.add(index, answer.outputs)
        return answer.version

    versions: dict[int, str] = {}
    stale = list(range(len(plan.tiles)))
    for _ in range(VERSION_CHANGES + 1):
        fresh = await _together([run(index) for index in stale])
        versions |= zip(stale, fresh, strict=True)
        newest = max(versions.values(), key=int)
        stale = [index for index, version in versions.items() if version != newest]
        if not stale:
            return newest
    raise EngineFailed("the model kept changing its version during one frame; send it again")


async def _together(runs: list[Coroutine[Any, Any, str]]) -> list[str]:
    """Await all; the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _label(
    frame: Frame, prediction: Prediction, watch: Stopwatch, check: Callable[[], None]
) -> tuple[NDArray[np.uint32], Nuclei]:
    contract, accumulator = prediction.contract, prediction.accumulator
    with watch.timed("postprocess"):
        labels, scores = accumulator.label(contract.postprocessing, check)
    with watch.timed("measure"):
        nuclei = measure(labels, frame.pixels, accumulator.foreground, check)
        return labels, nuclei if scores is None else replace(nuclei, score=scores)
