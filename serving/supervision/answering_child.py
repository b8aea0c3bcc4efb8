"""A child process that answers over HTTP whether it works."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nuclei.errors import EngineFailed
from nuclei.process.child import Child
from serving.supervision.probe import Fault

_POLL_S = 0.2
_PROBE_S = 2.0
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
        answers: Callable[[float], bool],
        start_s: float,
        hung_s: float,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Describe the process; `start` starts it.

        Args:
            name, command, environment, log: as of `Child`.
            answers: whether it answers within so many seconds.
            start_s: most seconds until it answers.
            hung_s: after how many seconds of silence it does not work.
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
        """Raises Fault when it is silent."""
        silent = time.monotonic()
        while not self._answers(_PROBE_S):
            if time.monotonic() - silent > self._hung_s:
                raise Fault(f"no answer from {self.name} in {self._hung_s:.0f} s")
            time.sleep(_POLL_S)

    def _failed(self, what: str) -> EngineFailed:
        return EngineFailed(f"{self.name} {what}:\n{self.last_lines(_ERROR_LINES)}")
