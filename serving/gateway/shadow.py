"""Frames that a challenger segments as well, off the way of callers and after their answers.

One frame at a time, one tile at a time, and only while the gateway is quiet: a shadow waits as long
as a caller's frame arrives, waits or is in work, and is dropped where that lasts. Its memory is
lent, and goes back as soon as a caller needs it. So a caller's frame meets at most one tile of it.
"""

import asyncio
import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.errors import EngineUnavailable, NucleiError, Overloaded
from nuclei.formats import Check
from nuclei.formats.overlay import draw_outlines, stretched
from nuclei.formats.png import encode_png
from nuclei.imaging.images import Frame
from nuclei.inference import pipeline
from nuclei.inference.deadline import NEVER, Deadline
from nuclei.inference.engine import Engine
from nuclei.inference.memory import memory_bytes
from nuclei.inference.threads import in_thread
from nuclei.postprocessing.accumulation import Outputs
from nuclei.results.segmentation import Segmentation
from serving.gateway.admission import Admission, Loan
from serving.gateway.observation import Skipped, only_known_errors
from serving.gateway.trial import Trial
from serving.rollout_report import WorstFrame

# The gateway has to be quiet for so long before each step, and for so many times of a tile: a
# caller who sends the next frame as soon as one is answered never meets a shadow.
QUIET_S = 0.05
QUIET_TILES = 2
# How long a shadow waits for that before it is dropped, and how long it takes in all.
PATIENCE_S = 5.0
SHADOW_S = 120.0
# A tile that takes longer has failed.
TILE_S = 30.0
POLL_S = 0.005
# Memory for a pixel: the champion's labels, and while labels are compared or drawn.
COMPARING_BYTES_PER_PX = 52
# A picture is never longer than `serving.rollout_report.MAX_PICTURE_BYTES`.
PICTURE_SIDE_PX = 256
# Blue and orange of Okabe and Ito, distinguishable with any colour vision.
CHAMPION_COLOUR, CHALLENGER_COLOUR = (86, 180, 233), (230, 159, 0)


@dataclass(frozen=True)
class ShadowedFrame:
    """A frame that the champion has answered.

    Attributes:
        request_id: its name.
        frame: its pixels.
        segmentation: the champion's.
        tta: whether it was segmented with test-time augmentation.
        trial: whose challenger is to segment it too.
    """

    request_id: str
    frame: Frame
    segmentation: Segmentation
    tta: bool
    trial: Trial


class Shadows:
    """Shows frames to challengers, one at a time."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        """Args: engine: where graphs run; admission: knows whether callers need the gateway."""
        self._engine = engine
        self._admission = admission
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._task: asyncio.Task[None] | None = None

    def offer(self, shadowed: ShadowedFrame) -> None:
        """Take a frame if there is room for it; returns at once."""
        shadowed.trial.note_chosen()
        if self._task is not None and not self._task.done():
            shadowed.trial.note_dropped("occupied")
            return
        loan = self._admission.lend(_needed_bytes(shadowed), self._give_up)
        if loan is None:
            shadowed.trial.note_dropped("memory")
            return
        self._task = asyncio.create_task(self._shadow(shadowed, loan))

    def close(self) -> None:
        """End the one in work."""
        self._give_up()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _shadow(self, shadowed: ShadowedFrame, loan: Loan) -> None:
        trial = shadowed.trial
        try:
            async with asyncio.timeout(SHADOW_S):
                with only_known_errors():
                    await self._compare(shadowed)
        except asyncio.CancelledError:
            trial.note_dropped("stopped" if loan.held else "memory")
            raise
        except TimeoutError:
            trial.note_dropped("slow")
        except Skipped as skipped:
            trial.note_dropped(str(skipped))
        except (EngineUnavailable, Overloaded):
            trial.note_dropped("unavailable")
        except NucleiError as error:
            trial.note_shadow_failed(shadowed.request_id, error)
        finally:
            loan.end()

    async def _compare(self, shadowed: ShadowedFrame) -> None:
        trial, champion = shadowed.trial, shadowed.segmentation
        # The decoder needs its memory for the next file.
        loop = asyncio.get_running_loop()
        frame = await loop.run_in_executor(self._executor, _copied, shadowed.frame)
        challenger = await pipeline.segment(
            frame,
            _GivingWay(self._engine, self._admission, trial, shadowed.tta),
            trial.challenger,
            tta=shadowed.tta,
            executor=self._executor,
        )
        agreement, picture = await in_thread(
            self._executor, NEVER, _compared, frame, champion, challenger, trial.shows
        )
        counts = len(champion.nuclei), len(challenger.nuclei)
        if picture:
            trial.keep(
                WorstFrame(
                    request_id=shadowed.request_id,
                    at=time.time(),
                    agreement=agreement,
                    champion_nuclei=counts[0],
                    challenger_nuclei=counts[1],
                    png=base64.b64encode(picture).decode(),
                )
            )
        trial.note_compared(agreement, *counts)


class _GivingWay:
    """An engine that computes one tile at a time, while no caller needs the gateway.

    The first tile is computed by the champion as well, to compare their times.
    """

    def __init__(self, engine: Engine, admission: Admission, trial: Trial, tta: bool) -> None:
        self._engine = engine
        self._admission = admission
        self._trial = trial
        self._tta = tta
        self._turn = asyncio.Lock()
        self._timed = False
        self._tile_s = 0.0

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Outputs:
        """As `Engine.infer`, once it is quiet; raises Skipped where that takes too long."""
        async with self._turn:
            await self._quiet()
            if self._timed:
                answer = await self._engine.infer(
                    graph, outputs, image, intensity, Deadline.after(TILE_S)
                )
            else:
                self._timed = True
                answer = await self._timed_by_both(image, intensity)
            # What follows, the next tile or the post-processing, waits for quiet as well.
            await self._quiet()
            return answer

    async def _quiet(self) -> None:
        """Wait until callers need nothing."""
        since = time.monotonic()
        wanted_s = max(QUIET_S, QUIET_TILES * self._tile_s)
        while (quiet_s := self._admission.quiet_s) < wanted_s:
            if time.monotonic() - since > PATIENCE_S:
                raise Skipped("busy")
            await asyncio.sleep(max(POLL_S, wanted_s - quiet_s))
        if not self._trial.running:
            raise Skipped("over")

    async def _timed_by_both(
        self, image: NDArray[np.uint16], intensity: NDArray[np.float32]
    ) -> Outputs:
        """The challenger's answer to a tile; notes both times unless a caller came between."""
        trial, since = self._trial, time.monotonic()
        ms: dict[str, float] = {}
        answers: dict[str, Outputs] = {}
        order = [trial.champion, trial.challenger]
        for served in order if trial.chosen % 2 else reversed(order):
            stride = served.contract.stride
            if served is trial.champion and any(side % stride for side in image.shape[:2]):
                continue
            await self._quiet()
            started = time.perf_counter()
            try:
                answers[served.version] = await self._engine.infer(
                    served.graph_for(self._tta),
                    served.contract.method.outputs_for(self._tta),
                    image,
                    intensity,
                    Deadline.after(TILE_S),
                )
            except NucleiError:
                if served is trial.champion:
                    # Not the challenger's failure.
                    raise Skipped("unavailable") from None
                raise
            ms[served.version] = (time.perf_counter() - started) * 1e3
        self._tile_s = max(ms.values()) / 1e3
        alone = self._admission.quiet_s >= time.monotonic() - since
        if alone and len(ms) == len(order):
            trial.note_tiles(ms[trial.champion.version], ms[trial.challenger.version])
        return answers[trial.challenger.version]


def _copied(frame: Frame) -> Frame:
    return replace(frame, pixels=frame.pixels.copy())


def _needed_bytes(shadowed: ShadowedFrame) -> int:
    height, width, channels = shadowed.frame.pixels.shape
    itemsize = shadowed.frame.pixels.itemsize
    method = shadowed.trial.challenger.contract.method
    of_comparison: int = height * width * COMPARING_BYTES_PER_PX
    needed = memory_bytes(height, width, channels, itemsize, method, tta=shadowed.tta)
    return needed + of_comparison


def _compared(
    frame: Frame,
    champion: Segmentation,
    challenger: Segmentation,
    shows: Callable[[float], bool],
    check: Check,
) -> tuple[float, bytes]:
    """AP@.5 of the challenger's nuclei; a picture, empty unless it is to be shown."""
    # It imports scipy: half a second, which a start without a trial does not need.
    from nuclei.evaluation.metrics import average_precision

    agreement = average_precision(champion.labels, challenger.labels)
    check()
    return agreement, _picture(frame, champion, challenger) if shows(agreement) else b""


def _picture(frame: Frame, champion: Segmentation, challenger: Segmentation) -> bytes:
    """A PNG of the part of the frame where the two differ most, with the outlines of both."""
    differ = _edges(champion.labels) != _edges(challenger.labels)
    near = cv2.blur(differ.astype(np.float32), (PICTURE_SIDE_PX, PICTURE_SIDE_PX))
    centre = np.unravel_index(np.argmax(near), near.shape)
    part = tuple(
        slice(start, start + PICTURE_SIDE_PX)
        for start in (
            max(0, min(int(at) - PICTURE_SIDE_PX // 2, length - PICTURE_SIDE_PX))
            for at, length in zip(centre, frame.pixels.shape[:2], strict=True)
        )
    )
    shown = replace(frame, pixels=frame.pixels[part], intensity_range=challenger.intensity_range)
    picture = stretched(shown)
    # The challenger's is drawn on the outer half of the champion's where they are alike.
    draw_outlines(picture, champion.labels[part], (CHAMPION_COLOUR,), width_px=2)
    draw_outlines(picture, challenger.labels[part], (CHALLENGER_COLOUR,))
    return encode_png(picture)


def _edges(labels: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Where a row differs from the one above, bool [H, W]."""
    return np.asarray(np.diff(labels, axis=0, prepend=labels[:1]) != 0)
