"""A child process that answers over HTTP whether it works."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from nuclei.errors import EngineFailed
from nuclei.process.child import Child
from serving.supervision.probe import Fault

_POLL_S = 0.2
_PROBE_S = 2.0
# Part of a processor that shows that a silent process is at work: others want the processor too,
# or a step of it keeps Python to itself. One that is frozen, or waits for itself, uses hardly any.
_AT_WORK = 0.02
# Silence of one that is at work is borne for so many times as long.
_PATIENCE = 10
_ERROR_LINES = 15


class AnsweringChild(Child):
    """A server whose start and whose answers can be waited for."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        answers: Callable[[float], bool | None],
        start_s: float,
        hung_s: float,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Describe the process; `start` starts it.

        Args:
            name, command, environment, log: as of `Child`.
            answers: whether it says within so many seconds that it works; None when it is silent.
            start_s: most seconds until it answers.
            hung_s: after so many seconds in which it was silent and idle, or said that it does not
                work, it is taken for hung.
            descriptors: as of `Child`.
        """
        super().__init__(name, command, environment, log, descriptors=descriptors)
        self._answers = answers
        self._start_s, self._hung_s = start_s, hung_s

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            EngineFailed: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + self._start_s
        while not self._answers(_PROBE_S):
            if (ended := self.ended) is not None:
                raise self._failed(f"ended while it started ({ended})")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready in {self._start_s:.0f} s")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """End it at once, and what it started."""
        self.stop(0)

    def check_answers(self) -> None:
        """Raises Fault when it says that it does not work, or is silent and idle, or for long."""
        began = since = time.monotonic()
        if self._answers(_PROBE_S):
            return
        had_s = self._processor_s()
        while (answer := self._answers(_PROBE_S)) is not True:
            now, has_s = time.monotonic(), self._processor_s()
            at_work = answer is None and has_s - had_s > _AT_WORK * self._hung_s
            if at_work and now - began < _PATIENCE * self._hung_s:
                since, had_s = now, has_s
            if now - since > self._hung_s:
                what = "no answer from" if answer is None else "no work gets done by"
                raise Fault(f"{what} {self.name} in {now - began:.0f} s")
            time.sleep(_POLL_S)

    def _processor_s(self) -> float:
        """Processor time that it and its children have had, seconds."""
        total = 0.0
        for pid in {self.pid, *self.children()} - {None}:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def _failed(self, what: str) -> EngineFailed:
        return EngineFailed(f"{self.name} {what}:\n{self.last_lines(_ERROR_LINES)}")
