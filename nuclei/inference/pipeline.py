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
from nuclei.imaging.resampling import labels_at
from nuclei.imaging.tiles import TilePlan, cut, mirrored
from nuclei.inference.adjusting import adjusted, as_seen, changes, pixels_seen
from nuclei.inference.deadline import NEVER, Deadline
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.threads import in_thread
from nuclei.postprocessing.accumulation import Accumulator, Outputs
from nuclei.postprocessing.measurement import measure
from nuclei.postprocessing.small import leave_out_small
from nuclei.quality.judgement import Judgement, group_of, judge
from nuclei.quality.measures import measures
from nuclei.results.adjustments import AS_TUNED, Adjustments
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


@dataclass(frozen=True, eq=False)
class _Found:
    """The nuclei of a frame.

    Attributes:
        labels: uint32 [H, W], 0 is background, 1..N in the order of `nuclei`.
        nuclei: features of the N nuclei.
        judgement: of the frame and these.
        left_out: number of those that are too small.
    """

    labels: NDArray[np.uint32]
    nuclei: Nuclei
    judgement: Judgement
    left_out: int


async def segment(
    frame: Frame,
    engine: Engine,
    served: ServedVersion,
    *,
    tta: bool = False,
    adjustments: Adjustments = AS_TUNED,
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
        adjustments: in place of what the model was tuned to. Where they give a diameter, measures
            of quality are those of the frame as the model sees it, but for the nuclei's area.
        deadline: when the caller gives up; never by default.
        executor: where the work on pixels runs; None is the event loop's own threads.
        stopwatch: times the steps; None for a new one.

    Raises:
        InvalidOption: the model cannot be adjusted so.
        ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
    """
    watch = stopwatch or Stopwatch()
    contract, seen = served.contract, frame
    if adjustments.diameter_px is not None:
        with watch.timed("resample"):
            seen = await in_thread(executor, deadline, as_seen, frame, adjustments, contract)
    prediction = await predict(
        seen, engine, served, tta=tta, deadline=deadline, executor=executor, stopwatch=watch
    )
    of_frame = adjustments, pixels_seen(frame, seen)
    found = await in_thread(executor, deadline, _label, seen, prediction, *of_frame, watch)
    if seen is not frame:
        with watch.timed("restore"):
            found = await in_thread(executor, deadline, _restored, found, frame, adjustments)
    judgement = found.judgement
    lo, hi = prediction.intensity.range.tolist()
    return Segmentation(
        found.labels,
        found.nuclei,
        frame.pixel_size_um,
        served.model,
        served.version,
        warnings=(
            *frame.warnings,
            *prediction.intensity.warnings,
            *changes(adjustments, contract, frame, seen, found.left_out),
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
        plan = contract.plan(height, width, tta=tta)
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
    room = asyncio.Semaphore(max(1, TILES_IN_FLIGHT_PX // plan.tile_px))

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
    frame: Frame,
    prediction: Prediction,
    adjustments: Adjustments,
    seen: float,
    watch: Stopwatch,
    check: Callable[[], None],
) -> _Found:
    """The nuclei of a frame as the model sees it, `seen` of its pixels for one of the caller's."""
    contract, accumulator = prediction.served.contract, prediction.accumulator
    group = group_of(frame.pixels)
    parameters = adjusted(contract.parameters[group], adjustments, seen)
    left_out = 0
    with watch.timed("postprocess"):
        labels, scores = accumulator.label(parameters, check)
        if adjustments.min_area_px is not None:
            count = int(labels.max(initial=0))
            kept = leave_out_small(labels, count, adjustments.min_area_px * seen, check)
            left_out = count - len(kept)
            scores = None if scores is None else scores[kept]
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
            parameters,
            contract.pixel_size_um,
            check,
        )
        judgement = judge(quality, contract.quality, group)
    return _Found(labels, nuclei, judgement, left_out)


def _restored(
    found: _Found, frame: Frame, adjustments: Adjustments, check: Callable[[], None]
) -> _Found:
    """What was found in the frame as the model saw it, in the frame itself."""
    labels = labels_at(found.labels, frame.pixels.shape[:2], check)
    kept = leave_out_small(labels, len(found.nuclei), adjustments.min_area_px or 0, check)
    nuclei = measure(labels, frame.pixels, None, check)
    nuclei = replace(
        nuclei,
        mean_intensity=frame.scale.value(nuclei.mean_intensity),
        score=found.nuclei.score[kept],
    )
    median_area_px = float(np.median(nuclei.area_px)) if len(nuclei) else None
    quality = replace(found.judgement.quality, median_area_px=median_area_px)
    left_out = found.left_out + len(found.nuclei) - len(nuclei)
    return _Found(labels, nuclei, replace(found.judgement, quality=quality), left_out)
