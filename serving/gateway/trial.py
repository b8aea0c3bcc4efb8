"""The trial of one challenger at this gateway: what is counted of it, and when it ends."""

import logging
import time
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from prometheus_client import Counter as PrometheusCounter

from nuclei.errors import NucleiError
from nuclei.inference.engine import ServedVersion
from nuclei.inference.routing import Routing
from nuclei.quoting import sentence
from serving.gateway import metrics
from serving.gateway.bounds import Bounds
from serving.logs import Event
from serving.rollout_report import (
    MAX_PICTURES,
    Agreement,
    Canary,
    Latency,
    ModelRollout,
    Shadow,
    WorstFrame,
)

logger = logging.getLogger(__name__)

# Newest frames that figures are of.
WINDOW = 500
# Percentile of the champion's times that a frame is given.
_USUAL = 90


class Trial:
    """One challenger against one champion, from the first frame on.

    Attributes:
        champion, challenger: the two.
        chosen: frames that were to be shadowed.
        reason: why it was aborted; empty while it runs.
        over: whether the routing no longer names it, so that nothing is to be found out any more.
    """

    def __init__(self, champion: ServedVersion, challenger: ServedVersion, bounds: Bounds) -> None:
        """Args: bounds: within which the challenger is to stay."""
        self.champion, self.challenger = champion, challenger
        self.reason = ""
        self.over = False
        self._bounds = bounds
        self._since = time.time()
        self._shadow = _Outcomes()
        self._canary = _Outcomes()
        self.chosen = 0
        self._dropped: Counter[str] = Counter()
        self._agreements: deque[float] = deque(maxlen=WINDOW)
        self._nuclei = [0, 0]
        self._tile_ms = _Times()
        self._frame_ms = _Times()
        self._worst: list[WorstFrame] = []

    @property
    def running(self) -> bool:
        return not self.reason and not self.over

    def is_of(self, champion: ServedVersion, challenger: int) -> bool:
        """Whether it is of this challenger: against this champion, or already aborted."""
        against = self.champion.version == champion.version or bool(self.reason)
        return against and self.challenger.version == str(challenger)

    def note_chosen(self) -> None:
        """A frame is to be shadowed."""
        self.chosen += 1

    def note_dropped(self, reason: str) -> None:
        """It was not, and the challenger is not to blame. Args: reason: one word of a few."""
        self._dropped[reason] += 1
        self._count(metrics.SHADOW_FRAMES, reason)

    def note_compared(self, agreement: float, champion_nuclei: int, challenger_nuclei: int) -> None:
        """Both have segmented a frame. Args: agreement: AP@.5."""
        self._shadow.note(failed=False)
        self._agreements.append(agreement)
        self._nuclei[0] += champion_nuclei
        self._nuclei[1] += challenger_nuclei
        self._count(metrics.SHADOW_FRAMES, "compared")
        metrics.SHADOW_AGREEMENT.labels(*self._labels).observe(agreement)
        self._judge()

    def note_tiles(self, champion_ms: float, challenger_ms: float) -> None:
        """Both have computed the same tile, one after the other."""
        self._tile_ms.champion.append(champion_ms)
        self._tile_ms.challenger.append(challenger_ms)
        for by, ms in (("champion", champion_ms), ("challenger", challenger_ms)):
            metrics.SHADOW_TILE_SECONDS.labels(*self._labels, by).observe(ms / 1e3)

    def note_shadow_failed(self, request_id: str, error: NucleiError) -> None:
        """The challenger failed on a frame that the champion had answered."""
        self._log_failure(request_id, error)
        self._shadow.note(failed=True)
        self._count(metrics.SHADOW_FRAMES, "failed")
        self._judge()

    def note_answered(self, ms: float) -> None:
        """The challenger has answered a caller. Args: ms: per megapixel of tiles."""
        self._canary.note(failed=False)
        self._frame_ms.challenger.append(ms)
        self._count(metrics.CANARY_FRAMES, "answered")
        self._judge()

    def note_canary_failed(self, request_id: str, error: NucleiError) -> None:
        """The challenger failed, and the champion answered the caller."""
        self._log_failure(request_id, error)
        self._canary.note(failed=True)
        self._count(metrics.CANARY_FRAMES, "failed")
        self._judge()

    def note_champion(self, ms: float) -> None:
        """The champion has answered a caller of its own. Args: ms: per megapixel of tiles."""
        self._frame_ms.champion.append(ms)

    def leaves_time(self, pixels: float, left_s: float | None) -> bool:
        """Whether half of the time is enough for the champion, should the challenger fail.

        Args:
            pixels: megapixels of all tiles of the frame.
            left_s: seconds until its caller gives up; None when that is never.
        """
        champion_ms = self._frame_ms.champion
        if left_s is None or not champion_ms:
            return True
        usual_ms = float(np.percentile(champion_ms, _USUAL)) * pixels
        return usual_ms / 1e3 <= left_s / 2

    def shows(self, agreement: float) -> bool:
        """Whether a frame of this agreement is among the worst, of which pictures are kept."""
        return len(self._worst) < MAX_PICTURES or agreement < self._worst[-1].agreement

    def keep(self, frame: WorstFrame) -> None:
        """Keep a frame if it is among the worst."""
        self._worst.append(frame)
        self._worst.sort(key=lambda each: each.agreement)
        del self._worst[MAX_PICTURES:]

    def report(self, routing: Routing, pictures: int) -> ModelRollout:
        """What was found. Args: routing: of the model; pictures: most that are shown."""
        compared, failed = self._shadow.good, self._shadow.failed
        return ModelRollout(
            model=self.champion.model,
            champion=int(self.champion.version),
            challenger=int(self.challenger.version),
            since=self._since,
            verdict="aborted" if self.reason else "running",
            reason=self.reason,
            shadow=Shadow(
                fraction=routing.shadow,
                chosen=self.chosen,
                compared=compared,
                failed=failed,
                dropped=dict(self._dropped),
                error_rate=self._shadow.error_rate,
                agreement=_agreement(self._agreements),
                champion_nuclei=self._nuclei[0],
                challenger_nuclei=self._nuclei[1],
                champion_tile_ms=_latency(self._tile_ms.champion),
                challenger_tile_ms=_latency(self._tile_ms.challenger),
            ),
            canary=Canary(
                fraction=routing.canary,
                answered=self._canary.good,
                failed=self._canary.failed,
                error_rate=self._canary.error_rate,
                champion_ms=_latency(self._frame_ms.champion),
                challenger_ms=_latency(self._frame_ms.challenger),
            ),
            worst=self._worst[:pictures],
        )

    @property
    def _labels(self) -> tuple[str, str]:
        return self.challenger.model, self.challenger.version

    def _count(self, metric: PrometheusCounter, outcome: str) -> None:
        metrics.note_version(*self._labels)
        metric.labels(*self._labels, outcome).inc()

    def _log_failure(self, request_id: str, error: NucleiError) -> None:
        model, version = self._labels
        logger.warning(
            Event(
                "challenger failed",
                request_id=request_id,
                model=model,
                version=version,
                error=type(error).__name__,
                detail=sentence(error),
            )
        )

    def _judge(self) -> None:
        """Abort once a figure is out of its bounds."""
        if not self.running:
            return
        bounds = self._bounds
        self.reason = (
            bounds.excess_of_errors(*self._shadow.window)
            or bounds.excess_of_errors(*self._canary.window)
            or bounds.lack_of_agreement(self._agreements)
            or bounds.excess_of_latency(*self._tile_ms.pair)
            or bounds.excess_of_latency(*self._frame_ms.pair)
        )
        if self.reason:
            model, version = self._labels
            metrics.ROLLOUT_ABORTS.labels(model, version).inc()
            logger.warning(
                Event(
                    "rollout aborted",
                    model=model,
                    champion=self.champion.version,
                    challenger=version,
                    reason=self.reason,
                )
            )


class _Outcomes:
    """How frames ended: all of them, and the newest.

    Attributes:
        good, failed: how many of all.
    """

    def __init__(self) -> None:
        self.good = self.failed = 0
        self._newest: deque[bool] = deque(maxlen=WINDOW)

    def note(self, failed: bool) -> None:
        self.good += not failed
        self.failed += failed
        self._newest.append(failed)

    @property
    def window(self) -> tuple[int, int]:
        """The failed, and all, of the newest."""
        return sum(self._newest), len(self._newest)

    @property
    def error_rate(self) -> float:
        failed, frames = self.window
        return failed / frames if frames else 0.0


class _Times:
    """Times of the newest frames by the champion and the challenger, milliseconds."""

    def __init__(self) -> None:
        self.champion: deque[float] = deque(maxlen=WINDOW)
        self.challenger: deque[float] = deque(maxlen=WINDOW)

    @property
    def pair(self) -> tuple[Sequence[float], Sequence[float]]:
        return self.champion, self.challenger


def _latency(ms: Sequence[float]) -> Latency:
    if not ms:
        return Latency()
    p50, p90, p99 = np.percentile(ms, (50, 90, 99)).tolist()
    return Latency(frames=len(ms), p50=p50, p90=p90, p99=p99)


def _agreement(values: Sequence[float]) -> Agreement:
    if not values:
        return Agreement()
    p05, p25, p50 = np.percentile(values, (5, 25, 50)).tolist()
    return Agreement(frames=len(values), mean=float(np.mean(values)), p05=p05, p25=p25, p50=p50)
