"""When the time for a frame runs out."""

import time
from dataclasses import dataclass
from typing import Self

from nuclei.errors import DeadlineExceeded


@dataclass(frozen=True)
class Deadline:
    """The moment at which a caller gives up, on the monotonic clock of this process.

    Attributes:
        at_s: value of `time.monotonic()` at that moment; None means never.
    """

    at_s: float | None = None

    @classmethod
    def after(cls, timeout_s: float | None) -> Self:
        """The moment that many seconds from now; None means never."""
        return cls(None if timeout_s is None else time.monotonic() + timeout_s)

    def left_s(self) -> float | None:
        """Seconds left, at least 0; None means without limit."""
        return None if self.at_s is None else max(0.0, self.at_s - time.monotonic())

    def check(self, when: str) -> None:
        """Raise an error once the time has run out.

        Args:
            when: continues the sentence "the time ran out ...".

        Raises:
            DeadlineExceeded: it has.
        """
        if self.left_s() == 0:
            raise DeadlineExceeded(f"the time ran out {when}; allow more time")


NEVER = Deadline()
