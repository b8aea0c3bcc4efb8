"""A request while it arrives: it holds what has arrived of it, and it has to keep coming."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from nuclei.errors import DeadlineExceeded
from serving.gateway.admission import Permit
from serving.gateway.peers import Peers

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


def too_long() -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the request did not arrive within {UPLOAD_S} s; compress the frame or use a faster line"
    )


class Arrivals:
    """How much of their messages has arrived on connections whose bytes only the kernel counts."""

    def __init__(self, port: int) -> None:
        """Args: port: of this process, at which the connections come in."""
        self._port = port
        self._peers = Peers()
        self._connections: dict[str, _Connection] = {}

    @contextmanager
    def message(self, caller: str) -> Iterator["_Connection"]:
        """While a message of a caller (HOST:PORT) arrives."""
        connection = self._connections.get(caller)
        if connection is None:
            received = self._peers.received(caller, self._port)
            connection = self._connections[caller] = _Connection(received)
        connection.messages += 1
        try:
            yield connection
        finally:
            connection.messages -= 1
            if not connection.messages:
                del self._connections[caller]

    def progress(self, caller: str) -> tuple[int, int]:
        """Bytes held of each message of a caller, an equal part of all; bytes that ever came."""
        connection = self._connections[caller]
        came = self._peers.received(caller, self._port)
        return max(0, came - connection.taken) // connection.messages, came

    def end(self, caller: str) -> None:
        """End the connection of a caller, with all of its calls."""
        self._peers.received(caller, self._port)  # finds it
        self._peers.end(caller)


class _Connection:
    """A connection on which messages arrive.

    Attributes:
        taken: bytes of it that belong to messages that are whole, and to what came before them.
        messages: how many arrive now.
    """

    def __init__(self, received: int) -> None:
        self.taken = received
        self.messages = 0
