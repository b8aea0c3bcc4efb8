"""A request while it arrives: it holds what has arrived of it, and it has to keep coming."""

import time

from nuclei.errors import DeadlineExceeded
from serving.gateway.admission import Permit

# Longest time for a request to arrive.
UPLOAD_S = 300
# The least that must arrive of it in each such time.
PACE_S = 30
PACE_BYTES = 2**14


class Upload:
    """One request on its way in."""

    def __init__(self, permit: Permit) -> None:
        """Args: permit: of the frame in it; its memory follows what has arrived."""
        self._permit = permit
        self._pace_ends = time.monotonic() + PACE_S
        self._paced_bytes = 0

    def arrived(self, n_bytes: int, came: int) -> None:
        """Reserve memory for what has arrived; call it now and then also when nothing has.

        Args:
            n_bytes: what is held of the request now.
            came: bytes that came by its connection until now.

        Raises:
            Overloaded, FrameTooLarge: there is no memory for it.
            DeadlineExceeded: it comes too slowly.
        """
        # Less than before where calls of one connection share what came, and one has begun since.
        if n_bytes != self._permit.n_bytes:
            self._permit.resize(n_bytes)
        if (now := time.monotonic()) < self._pace_ends:
            return
        if came - self._paced_bytes < PACE_BYTES:
            raise too_slow()
        self._pace_ends, self._paced_bytes = now + PACE_S, came


def too_slow() -> DeadlineExceeded:
    return DeadlineExceeded(
        f"less than {PACE_BYTES} bytes of the request arrived in {PACE_S} s; send it without a "
        "break, or over a faster line"
    )


def too_long(seconds: float = UPLOAD_S) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the request did not arrive within {seconds:.0f} s; compress the frame or use a faster "
        "line"
    )
