"""Frame -> tiles -> engine -> answers -> nuclei: the one way to segment a frame."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import Intensity, intensity_of
from nuclei.imaging.tiles import TilePlan, cut, mirrored, plan_tiles
from nuclei.inference.deadline import NEVER, Deadline
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.threads import in_thread
from nuclei.postprocessing.accumulation import Accumulator, Outputs
from nuclei.postprocessing.measurement import measure
from nuclei.quality.judgement import Judgement, group_of, judge
from nuclei.quality.measures import measures
from nuclei.results.nuclei import Nuclei
from nuclei.results.segmentation import Segmentation

# Pixels of the tiles of one frame that the engine has at a time.
TILES_IN_FLIGHT_PX = 2**22


class Stopwatch:
    """Times the steps of one frame.

    Attributes:
        stage_ms: time of each finished step, milliseconds.
    """

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time the block; in any thread."""
        started = time.perf_counter()
        yield
        self.stage_ms[stage] = (time.perf_counter() - started) * 1000


@dataclass(frozen=True)
class Prediction:
    """The answers to all tiles of one frame.

    Attributes:
        accumulator: of the answers.
        served: the version that answered.
        intensity: the range of the frame's pixels that the network saw as 0 to 1.
    """

    accumulator: Accumulator
    served: ServedVersion
    intensity: Intensity


async def segment(
    frame: Frame,
    engine: Engine,
    served: ServedVersion,
    *,
    tta: bool = False,
    deadline: Deadline = NEVER,
    executor: Executor | None = None,
    stopwatch: Stopwatch | None = None,
) -> Segmentation:
    """Segment one frame.

    Args:
        frame: pixels uint8 or uint16 [H, W, C].
        engine: runs the graphs.
        served: the model version that answers, for all tiles.
        tta: average over the eight rotated and mirrored views.
        deadline: when the caller gives up; never by default.
        executor: where the work on pixels runs; None is the event loop's own threads.
        stopwatch: times the steps; None for a new one.

    Raises:
        ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
    """
    watch = stopwatch or Stopwatch()
    prediction = await predict(
        frame, engine, served, tta=tta, deadline=deadline, executor=executor, stopwatch=watch
    )
    labels, nuclei, judgement = await in_thread(
        executor, deadline, _label, frame, prediction, watch
    )
    lo, hi = prediction.intensity.range.tolist()
    return Segmentation(
        labels,
        nuclei,
        frame.pixel_size_um,
        served.model,
        served.version,
        warnings=(
            *frame.warnings,
            *prediction.intensity.warnings,
            *(doubt.sentence for doubt in judgement.doubts),
        ),
        intensity_range=(frame.scale.value(lo), frame.scale.value(hi)),
        quality=judgement.quality,
        doubtful=tuple(doubt.kind for doubt in judgement.doubts),
        group=judgement.group,
        stage_ms=watch.stage_ms,
    )


async def predict(
    frame: Frame,
    engine: Engine,
    served: ServedVersion,
    *,
    tta: bool = False,
    deadline: Deadline = NEVER,
    executor: Executor | None = None,
    stopwatch: Stopwatch | None = None,
) -> Prediction:
    """The answers to one frame, before post-processing; arguments and errors as `segment`."""
    watch = stopwatch or Stopwatch()
    contract = served.contract
    height, width = frame.pixels.shape[:2]
    with watch.timed("tile"):
        plan = plan_tiles(height, width, contract.tile_size, contract.halo, contract.stride)
        pixels, intensity = await in_thread(executor, deadline, _prepare, frame, plan)
    with watch.timed("infer"):
        accumulator = contract.method.accumulate(contract.maps, plan, tta=tta)
        outputs = contract.method.outputs_for(tta)
        ask = partial(engine.infer, served.graph_for(tta), outputs)
        await _infer(ask, pixels, plan, intensity.range, deadline, accumulator)
    return Prediction(accumulator, served, intensity)


def _prepare(
    frame: Frame, plan: TilePlan, check: Callable[[], None]
) -> tuple[NDArray[Any], Intensity]:
    """The pixels from which tiles are cut, and their range."""
    check()
    return mirrored(frame.pixels, plan), intensity_of(frame)


async def _infer(
    ask: Callable[..., Awaitable[Outputs]],
    pixels: NDArray[Any],
    plan: TilePlan,
    intensity: NDArray[np.float32],
    deadline: Deadline,
    accumulator: Accumulator,
) -> None:
    """Accumulate the answers to all tiles, which are cut as they are sent."""
    room = asyncio.Semaphore(max(1, TILES_IN_FLIGHT_PX // plan.size**2))

    async def run(index: int) -> None:
        tile = plan.tiles[index]
        async with room:
            part = cut(pixels, tile, plan)
            accumulator.add(index, await ask(part, intensity, deadline))

    await _together([run(index) for index in range(len(plan.tiles))])


async def _together(runs: list[Coroutine[Any, Any, None]]) -> None:
    """Await all; the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _label(
    frame: Frame, prediction: Prediction, watch: Stopwatch, check: Callable[[], None]
) -> tuple[NDArray[np.uint32], Nuclei, Judgement]:
    contract, accumulator = prediction.served.contract, prediction.accumulator
    with watch.timed("postprocess"):
        labels, scores = accumulator.label(contract.postprocessing, check)
    with watch.timed("measure"):
        nuclei = measure(labels, frame.pixels, accumulator.foreground, check)
    nuclei = replace(nuclei, mean_intensity=frame.scale.value(nuclei.mean_intensity))
    if scores is not None:
        nuclei = replace(nuclei, score=scores)
    with watch.timed("quality"):
        quality = measures(
            frame,
            prediction.intensity,
            labels,
            nuclei,
            accumulator,
            contract.postprocessing,
            contract.pixel_size_um,
            check,
        )
        judgement = judge(quality, contract.quality, group_of(frame.pixels))
    return labels, nuclei, judgement
