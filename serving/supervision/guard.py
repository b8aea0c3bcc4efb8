"""The outermost process of `nuclei serve`: starts the supervisor again when something kills it."""

import logging
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType

from serving.logs import Event
from serving.process.backoff import Backoff
from serving.process.child import Child

logger = logging.getLogger(__name__)

_POLL_S = 0.1
# What the supervisor needs to stop besides the time that it gives the gateway.
_SUPERVISOR_STOP_S = 30.0


def guard_supervisor(environment: Mapping[str, str], gateway_stop_s: float) -> int:
    """Run the supervisor, again and again if need be, until it ends by itself or is stopped.

    Args:
        environment: what it reads its settings from.
        gateway_stop_s: seconds that it gives the gateway to finish its requests.

    Returns:
        Its exit code; 0 when this process was stopped.
    """
    command = [sys.executable, "-m", "serving.supervision"]
    supervisor = Child("the supervisor", command, environment, log=None)
    return Guard(supervisor, gateway_stop_s + _SUPERVISOR_STOP_S).run()


class Guard:
    """Runs a child process until it ends by itself; one that was killed is started again.

    Ctrl-C or SIGTERM to this process stop both.
    """

    def __init__(self, child: Child, stop_s: float) -> None:
        """Describe the guard; `run` starts the child.

        Args:
            child: what to run.
            stop_s: seconds that it has to end after SIGTERM.
        """
        self._child = child
        self._stop_s = stop_s
        self._stopping = False
        self._backoff = Backoff()

    def run(self) -> int:
        """Run the child; returns its exit code once it ends by itself, 0 when it was stopped."""
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._stop)
        restarted = False
        while True:
            started = time.monotonic()
            self._child.start()
            while self._child.running and not self._stopping:
                time.sleep(_POLL_S)
            code, ending = self._child.exit_code, self._child.ending
            # Whatever it started ends with it.
            self._child.stop(self._stop_s)
            if self._stopping:
                return 0
            if code is not None and code >= 0 and not restarted:
                return code
            restarted = True
            wait_s = self._backoff.failed(time.monotonic() - started)
            logger.warning(
                Event(
                    "ended",
                    part="supervisor",
                    attempt=self._backoff.attempt,
                    next_try_s=round(wait_s, 1),
                    why=ending,
                )
            )
            self._wait(wait_s)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stopping:
            time.sleep(_POLL_S)
