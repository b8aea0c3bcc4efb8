"""A request to stop: SIGTERM, which Kubernetes and Slurm send before they take a machine away."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from nuclei.errors import TrainingInterrupted


class Stop:
    """Whether this process was told to stop.

    Attributes:
        asked: it was.
    """

    def __init__(self) -> None:
        self.asked = False
        self._deferred = self._ends = False

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[Self]:
        """Turn SIGTERM into TrainingInterrupted, so that what is open gets closed."""
        stop = cls()
        before = signal.signal(signal.SIGTERM, lambda *_: stop._ask())
        try:
            yield stop
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a request: the code inside looks at `asked` where it can stop."""
        self._deferred = True
        try:
            yield
        except BaseException:
            # torchrun tells all processes to stop when one has failed: this one ends already.
            self._ends = True
            raise
        finally:
            self._deferred = False

    def _ask(self) -> None:
        ends = self._ends or self.asked
        self.asked = True
        if not self._deferred and not ends:
            raise TrainingInterrupted(
                "the training was told to stop (SIGTERM); continue it with --resume"
            )
