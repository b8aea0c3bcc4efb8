"""Starts a process again when something kills it."""

import logging
import signal
import time
from types import FrameType

from serving.process.backoff import Backoff
from serving.process.child import Child

logger = logging.getLogger(__name__)

_POLL_S = 0.1


class Guard:
    """Runs a child process until it ends by itself; one that was killed is started again.

    It is told to stop as this process is: by Ctrl-C or SIGTERM.
    """

    def __init__(self, child: Child, stop_s: float) -> None:
        """Describe the guard; `run` starts the child.

        Args:
            child: what to run.
            stop_s: seconds that it has to end when told to.
        """
        self._child = child
        self._stop_s = stop_s
        self._told = False
        self._backoff = Backoff()

    def run(self) -> int:
        """Run the child; returns its exit code once it ends by itself, or was told to."""
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._tell)
        restarted = False
        while True:
            started = time.monotonic()
            self._child.start()
            while self._child.running and not self._told:
                time.sleep(_POLL_S)
            code, ending = self._child.exit_code, self._child.ending
            # Whatever it started ends with it.
            self._child.stop(self._stop_s)
            if self._told:
                return 0
            if code is not None and code >= 0 and not restarted:
                return code
            restarted = True
            wait_s = self._backoff.failed(time.monotonic() - started)
            logger.warning(
                "part=supervisor event='ended' attempt=%d next_try_s=%.1f why=%r",
                self._backoff.attempt,
                wait_s,
                ending,
            )
            self._wait(wait_s)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._told:
            time.sleep(_POLL_S)
