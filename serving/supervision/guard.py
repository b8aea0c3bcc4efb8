"""The outermost process of `nuclei serve`: starts the supervisor again when it dies or hangs."""

import logging
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType

from nuclei.process.backoff import Backoff
from nuclei.process.child import Child
from nuclei.process.heartbeat import Heartbeat
from serving.logs import Event

logger = logging.getLogger(__name__)

_POLL_S = 0.1
# What the supervisor needs to stop besides the time that it gives the gateway.
_SUPERVISOR_STOP_S = 30.0
# The supervisor gives a sign several times a second.
_SILENT_S = 5.0


def guard_supervisor(environment: Mapping[str, str], gateway_stop_s: float) -> int:
    """Run the supervisor, again and again if need be, until it ends by itself or is stopped.

    Args:
        environment: what it reads its settings from.
        gateway_stop_s: seconds that it gives the gateway to finish its requests.

    Returns:
        Its exit code; 0 when this process was stopped.
    """
    heartbeat = Heartbeat()
    command = [sys.executable, "-m", "serving.supervision", str(heartbeat.descriptor)]
    supervisor = Child(
        "the supervisor", command, environment, log=None, descriptors=[heartbeat.descriptor]
    )
    return Guard(supervisor, heartbeat, gateway_stop_s + _SUPERVISOR_STOP_S).run()


class Guard:
    """Runs a child process until it ends by itself; killed or silent, it is started again.

    Ctrl-C or SIGTERM to this process stop both.
    """

    def __init__(self, child: Child, heartbeat: Heartbeat, stop_s: float) -> None:
        """Describe the guard; `run` starts the child.

        Args:
            child: what to run.
            heartbeat: of the child.
            stop_s: seconds that it has to end after SIGTERM.
        """
        self._child = child
        self._heartbeat = heartbeat
        self._stop_s = stop_s
        self._stopping = False
        self._backoff = Backoff()

    def run(self) -> int:
        """Run the child; returns its exit code once it ends by itself, 0 when it was stopped.

        Raises:
            OSError: its first start is impossible.
        """
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._stop)
        restarted = False
        while True:
            started = time.monotonic()
            try:
                code, ending = self._run_once()
            except OSError as error:  # no memory or no process is free, for instance
                if not restarted:
                    raise
                code, ending = None, f"cannot be started: {error}"
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

    def _run_once(self) -> tuple[int | None, str]:
        """Run the child until it ends, is silent or is to stop; its exit code, and how it ended."""
        self._heartbeat.begin()
        self._child.start()
        silent = False
        while self._child.running and not self._stopping and not silent:
            time.sleep(_POLL_S)
            silent = self._heartbeat.silent_s() > _SILENT_S
        code, ending = self._child.exit_code, self._child.ending
        if silent:
            ending = f"no sign of life in {_SILENT_S:.0f} s"
        # Whatever it started ends with it.
        self._child.stop(0 if silent else self._stop_s)
        return code, ending

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stopping:
            time.sleep(_POLL_S)
