"""Signs of life of a child process, through a pipe."""

import contextlib
import os
import time

# A start may take long: the child's imports may not be compiled, nor in memory.
_FIRST_S = 60.0


class Heartbeat:
    """The parent's side.

    Attributes:
        descriptor: the child's side, for `beat`; the child inherits it.
    """

    def __init__(self, first_s: float = _FIRST_S) -> None:
        """Make the pipe.

        Args:
            first_s: seconds that a new child has until its first sign.
        """
        self._first_s = first_s
        self._read, self.descriptor = os.pipe()
        for each in (self._read, self.descriptor):
            os.set_blocking(each, False)
        self.begin()

    def begin(self) -> None:
        """Wait for the first sign of a new child."""
        self._read_signs()
        self._expected = time.monotonic() + self._first_s

    def silent_s(self) -> float:
        """Seconds since the last sign, or since the first was due; 0 before that."""
        if self._read_signs():
            self._expected = time.monotonic()
        return max(0.0, time.monotonic() - self._expected)

    def _read_signs(self) -> bool:
        """Whether there were signs since the last call."""
        found = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                found = True
        return found


def beat(descriptor: int) -> None:
    """Give a sign of life; one that nobody reads is lost."""
    with contextlib.suppress(OSError):
        os.write(descriptor, b".")
