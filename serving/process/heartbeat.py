"""Signs of life of a child process, through a pipe."""

import contextlib
import os
import time


class Heartbeat:
    """The parent's side.

    Attributes:
        descriptor: the child's side, for `beat`; the child inherits it.
    """

    def __init__(self) -> None:
        self._read, self.descriptor = os.pipe()
        for each in (self._read, self.descriptor):
            os.set_blocking(each, False)
        self._last: float | None = None

    def begin(self) -> None:
        """Wait for the first sign of a new child."""
        self.silent_s()
        self._last = None

    def silent_s(self) -> float:
        """Seconds since the last sign; 0 before the first, since a start may take long."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                self._last = time.monotonic()
        return 0.0 if self._last is None else time.monotonic() - self._last


def beat(descriptor: int) -> None:
    """Give a sign of life; one that nobody reads is lost."""
    with contextlib.suppress(OSError):
        os.write(descriptor, b".")
