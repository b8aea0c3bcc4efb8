"""Keeps the parts of the service running: notices what ended or hangs, and starts it again."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from nuclei.errors import NucleiError
from serving.logs import Event
from serving.process.backoff import Backoff
from serving.supervision.probe import Fault

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_HOUSEKEEPING_S = 5.0


@dataclass(frozen=True)
class Part:
    """A server that is to run all the time.

    Attributes:
        name: what the log calls it.
        start: starts it and waits until it works; raises NucleiError or OSError when it does not.
        kill: ends it at once, and removes what it left; harmless when it has ended.
        ended: how it ended, None while it runs.
        check: waits for its answer to whether it works; raises Fault when it does not.
        check_interval_s: time between two checks, seconds.
        tidy: called every few seconds while it runs.
    """

    name: str
    start: Callable[[], None]
    kill: Callable[[], None]
    ended: Callable[[], str | None]
    check: Callable[[], None]
    check_interval_s: float
    tidy: Callable[[], None]


class Supervisor:
    """Watches parts that were started; one thread a part makes the checks."""

    def __init__(self, parts: list[Part]) -> None:
        self._watches = [_Watch(part) for part in parts]

    def run(self) -> NoReturn:
        """Watch until the process ends."""
        while True:
            for watch in self._watches:
                watch.step()
            time.sleep(_POLL_S)


class _Watch:
    """The watch over one part: it runs and is checked, or waits for its next start."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._backoff = Backoff()
        self._next_try = 0.0
        self._checks: _Checks | None = None
        self._since = self._tidied = 0.0
        self._begin()

    def step(self) -> None:
        """Kill the part if it has ended or does not work; start it again once it is time."""
        if self._checks is None:
            if time.monotonic() >= self._next_try:
                self._restart()
        elif (ended := self._part.ended()) is not None:
            self._give_up("ended", ended)
        elif self._checks.fault is not None:
            self._give_up("broken", self._checks.fault)
        elif time.monotonic() - self._tidied > _HOUSEKEEPING_S:
            self._part.tidy()
            self._tidied = time.monotonic()

    def _begin(self) -> None:
        self._checks = _Checks(self._part.check, self._part.check_interval_s)
        self._since = self._tidied = time.monotonic()

    def _give_up(self, event: str, why: str) -> None:
        if self._checks is not None:
            self._checks.stop()
            self._checks = None
        wait_s = self._backoff.failed(time.monotonic() - self._since)
        self._next_try = time.monotonic() + wait_s
        self._log(logging.WARNING, event, why=why, next_try_s=wait_s)
        self._part.kill()

    def _restart(self) -> None:
        self._since = time.monotonic()
        try:
            self._part.start()
        except (NucleiError, OSError) as error:
            self._give_up("start_failed", str(error))
            return
        started_s = time.monotonic() - self._since
        self._begin()
        self._log(logging.INFO, "restarted", in_s=started_s)

    def _log(self, level: int, event: str, why: str = "", **seconds: float) -> None:
        rounded = {name: round(value, 1) for name, value in seconds.items()}
        attempt = self._backoff.attempt
        logger.log(level, Event(event, part=self._part.name, attempt=attempt, **rounded, why=why))


class _Checks:
    """A thread that checks a part again and again, until a check fails.

    Attributes:
        fault: what the last check found, None as long as all is well.
    """

    def __init__(self, check: Callable[[], None], interval_s: float) -> None:
        self.fault: str | None = None
        self._check = check
        self._interval_s = interval_s
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="checks").start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            try:
                self._check()
            except Fault as fault:
                self.fault = str(fault)
                return
            except Exception:
                # A bug in the check is no reason to end the part.
                logger.exception("a check cannot be made")
