"""Whether work gets done: seen by the work itself, and by a small frame where there is none.

A process that answers health checks may be of no use: its threads may be taken by work that does
not end. So it says that it works only as long as something is completed.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

from nuclei.errors import NucleiError
from serving.logs import Event

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
# A small frame is sent when nothing else was completed for so long.
QUIET_S = 5.0
# Longest silence of a gateway that is ready, and of one that is worth keeping.
READY_S = 15.0
ALIVE_S = 60.0


class Progress:
    """When steps of frames were last completed: those of this process, and all of a frame's."""

    def __init__(self, engine_answered_s: Callable[[], float]) -> None:
        """Args: engine_answered_s: when the engine last answered, on the monotonic clock."""
        self._engine_answered_s = engine_answered_s
        # Starting counts as a step of this process; a frame is still to come.
        self._step_s = time.monotonic()
        self._frame_s = -math.inf

    def note_step(self) -> None:
        """The pixels of a frame are there."""
        self._step_s = time.monotonic()

    def note_frame(self) -> None:
        """A frame has gone all the way."""
        self._step_s = self._frame_s = time.monotonic()

    @property
    def is_alive(self) -> bool:
        """Whether this process still does its part; if not, a new one is needed."""
        return time.monotonic() - max(self._step_s, self._engine_answered_s()) < ALIVE_S

    @property
    def is_ready(self) -> bool:
        """Whether frames go all the way. Large ones do so tile by tile."""
        return self._quiet_s < READY_S

    @property
    def _quiet_s(self) -> float:
        return time.monotonic() - max(self._frame_s, self._engine_answered_s())

    async def watch(self, small_frame: Callable[[], Awaitable[None]]) -> None:
        """Send a small frame again and again while nothing else is completed.

        Args:
            small_frame: takes all the way that a frame takes, notes its steps here, and gives up
                after some seconds.
        """
        while True:
            if self._quiet_s > QUIET_S:
                try:
                    await small_frame()
                except (NucleiError, TimeoutError) as error:
                    why = str(error) or "it took too long"
                    logger.debug(Event("small frame not segmented", why=why))
                except Exception:
                    logger.exception("a small frame cannot be segmented")
            await asyncio.sleep(INTERVAL_S)
