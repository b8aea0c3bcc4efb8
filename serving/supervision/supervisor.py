"""Keeps the parts of the service running: notices what ended or hangs, and starts it again."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from nuclei.errors import NucleiError
from nuclei.process.background import in_background
from nuclei.process.backoff import Backoff
from serving.logs import Event
from serving.supervision.probe import Fault

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_HOUSEKEEPING_S = 5.0


@dataclass(frozen=True)
class Part:
    """A server that is to run all the time.

    Attributes:
        name: what the log calls it.
        launch: starts it, without waiting; raises NucleiError or OSError when that is impossible.
        wait_ready: waits until it works; raises NucleiError when it ends or does not come up.
        kill: ends it at once, and removes what it left; harmless when it has ended; raises OSError
            when something cannot be removed.
        ended: how it ended, None while it runs.
        check: waits for its answer to whether it works; raises Fault when it does not.
        check_interval_s: time between two checks, seconds.
        tidy: called every few seconds while it runs.
    """

    name: str
    launch: Callable[[], None]
    wait_ready: Callable[[], None]
    kill: Callable[[], None]
    ended: Callable[[], str | None]
    check: Callable[[], None]
    check_interval_s: float
    tidy: Callable[[], None]


class Supervisor:
    """Starts parts side by side and watches them.

    The thread that calls it waits for none of them: what may take long, their answers and their
    ends, others wait for.
    """

    def __init__(self, parts: list[Part], beat: Callable[[], None]) -> None:
        """Describe the supervisor.

        Args:
            parts: what to keep running.
            beat: called several times a second as long as the supervisor works.
        """
        self._watches = [_Watch(part) for part in parts]
        self._beat = beat

    def start(self, report: Callable[[str, float], None]) -> None:
        """Start all parts and wait until they work.

        Args:
            report: called with a part's name and its seconds once it works.

        Raises:
            NucleiError, OSError: what the first part that fails raised.
        """
        for watch in self._watches:
            watch.launch()
        waiting = list(self._watches)
        while waiting:
            self._beat()
            for watch in waiting[:]:
                if watch.started():
                    waiting.remove(watch)
                    report(watch.name, watch.healthy_s)
            time.sleep(_POLL_S)

    def run_for_ever(self) -> None:
        """Watch what was started; an error that nobody foresaw kills this process.

        Its end by a signal lets the guard start another, which an exit code would not.
        """
        try:
            self.run(until=lambda: False)
        except Exception:
            logger.exception("the supervisor cannot go on")
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self, until: Callable[[], bool]) -> None:
        """Watch what was started until a condition holds."""
        while not until():
            self._beat()
            for watch in self._watches:
                watch.step()
            time.sleep(_POLL_S)


class _Watch:
    """The watch over one part: it starts or runs and is checked, or ends until its next start."""

    def __init__(self, part: Part) -> None:
        self.name = part.name
        self._part = part
        self._backoff = Backoff()
        self._next_try = 0.0
        self._checks: _Checks | None = None
        self._ending: Future[None] | None = None
        self._announced = False
        self._since = self._tidied = 0.0

    @property
    def healthy_s(self) -> float:
        return time.monotonic() - self._since

    def launch(self) -> None:
        """Start the part; raises what its `launch` raises."""
        self._since = self._tidied = time.monotonic()
        self._announced = False
        self._part.launch()
        self._checks = _Checks(self._part)

    def started(self) -> bool:
        """Whether its first start has succeeded; raises what made it fail."""
        assert self._checks is not None, "it was launched"
        if self._checks.failure is not None:
            raise self._checks.failure
        self._announced = self._checks.ready
        return self._checks.ready

    def step(self) -> None:
        """Kill the part if it has ended or does not work; start it again once it is time."""
        if self._ending is not None and not self._has_ended(self._ending):
            return
        if self._checks is None:
            if time.monotonic() >= self._next_try:
                self._restart()
            return
        if (failure := self._checks.failure) is not None:
            self._give_up("broken" if self._checks.ready else "start_failed", str(failure))
        elif self._checks.ready and (ended := self._part.ended()) is not None:
            self._give_up("ended", ended)
        elif self._checks.ready and not self._announced:
            self._announced = True
            self._log(logging.INFO, "restarted", in_s=self.healthy_s)
        elif time.monotonic() - self._tidied > _HOUSEKEEPING_S:
            self._part.tidy()
            self._tidied = time.monotonic()

    def _give_up(self, event: str, why: str) -> None:
        if self._checks is not None:
            self._checks.stop()
            self._checks = None
        wait_s = self._backoff.failed(self.healthy_s)
        self._next_try = time.monotonic() + wait_s
        self._log(logging.WARNING, event, why=why, next_try_s=wait_s)
        self._ending = in_background(self._part.kill, self.name)

    def _has_ended(self, ending: "Future[None]") -> bool:
        """Whether the part has been killed; says what could not be removed."""
        if not ending.done():
            return False
        if (error := ending.exception()) is not None:
            self._log(logging.ERROR, "remains", why=str(error))
        self._ending = None
        return True

    def _restart(self) -> None:
        try:
            self.launch()
        except (NucleiError, OSError) as error:
            self._give_up("start_failed", str(error))

    def _log(self, level: int, event: str, why: str = "", **seconds: float) -> None:
        rounded = {name: round(value, 1) for name, value in seconds.items()}
        attempt = self._backoff.attempt
        logger.log(level, Event(event, part=self._part.name, attempt=attempt, **rounded, why=why))


class _Checks:
    """A thread that waits until a part works, then checks it until a check fails.

    Attributes:
        ready: whether it has worked.
        failure: why it did not come up, or what a check found; None as long as all is well.
    """

    def __init__(self, part: Part) -> None:
        self.ready = False
        self.failure: Exception | None = None
        self._part = part
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True, name=part.name).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        try:
            self._part.wait_ready()
            self.ready = True
            while not self._stopped.wait(self._part.check_interval_s):
                self._check()
        except (NucleiError, OSError, Fault) as failure:
            self.failure = failure
        except Exception as failure:
            # A part that nobody watches would stay as it is when it breaks.
            logger.exception("a part cannot be watched")
            self.failure = failure

    def _check(self) -> None:
        try:
            self._part.check()
        except Fault:
            raise
        except Exception:
            # A bug in the check is no reason to end the part.
            logger.exception("a check cannot be made")
