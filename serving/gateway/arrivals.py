"""Messages on their way in, by connections whose bytes only the kernel counts."""

import asyncio
import time
from collections.abc import Callable

from nuclei.errors import NucleiError, Overloaded
from serving.gateway.observation import only_known_errors
from serving.gateway.peers import Peers

# How often the kernel is asked what has arrived.
LOOK_S = 0.1
# How often a message is told that nothing has: it may have to keep coming.
QUIET_S = 1.0
# Most messages awaited at once: an open call takes 25 kB. One connection cannot have all of them,
# and one host with all of its connections has 32 for each.
MAX_AWAITED = 8192

Arrived = Callable[[int, int], None]


class Arrivals:
    """The messages that are awaited, and how much of each has arrived."""

    def __init__(self, port: int) -> None:
        """Args: port: of this process, at which the connections come in."""
        self._port = port
        self._peers = Peers()
        self._connections: dict[str, _Connection] = {}
        self._awaited = 0

    async def watch(self) -> None:
        """Tell all messages what has arrived of them, until cancelled.

        Connections are looked at, not messages: those that send nothing cost next to nothing.
        """
        while True:
            now = time.monotonic()
            for caller, connection in list(self._connections.items()):
                if not connection.left:
                    connection.look(self._peers.received(caller, self._port))
                connection.tell(now)
            await asyncio.sleep(LOOK_S)

    def begin(self, caller: str, arrived: Arrived) -> "Arriving":
        """A message of a caller (HOST:PORT) is awaited, until `end`.

        Where too many are, the oldest of the connection with most of them is refused.

        Args:
            caller: who sends it.
            arrived: called now and then, with the bytes held of the message (an equal part of what
                its connection holds) and the bytes that ever came by the connection. A NucleiError
                that it raises refuses the message.
        """
        if self._awaited >= MAX_AWAITED:
            crowded = max(self._connections.values(), key=lambda each: len(each.messages))
            oldest = next(iter(crowded.messages))
            oldest.refuse(_crowded())
            self.end(oldest)
        connection = self._connections.get(caller)
        if connection is None:
            received = self._peers.received(caller, self._port)
            connection = self._connections[caller] = _Connection(received)
        message = Arriving(caller, arrived)
        connection.messages[message] = None
        self._awaited += 1
        return message

    def end(self, message: "Arriving", n_bytes: int = 0) -> None:
        """A message is no longer awaited; a second time does nothing.

        Args:
            message: as `begin` gave it.
            n_bytes: its length, if it has arrived.
        """
        connection = self._connections.get(message.caller)
        if connection is None or message not in connection.messages:
            return
        del connection.messages[message]
        self._awaited -= 1
        connection.taken += n_bytes
        if not connection.messages:
            del self._connections[message.caller]

    def disconnect(self, caller: str) -> None:
        """End the connection of a caller, with all of its calls."""
        self._peers.received(caller, self._port)  # finds it
        self._peers.end(caller)


class Arriving:
    """A message that is awaited.

    Attributes:
        caller: who sends it.
        refused: done once it is not to be waited for; the result says why.
    """

    def __init__(self, caller: str, arrived: Arrived) -> None:
        self.caller = caller
        self.refused: asyncio.Future[NucleiError] = asyncio.get_running_loop().create_future()
        self._arrived = arrived

    def tell(self, n_bytes: int, came: int) -> None:
        try:
            with only_known_errors():
                self._arrived(n_bytes, came)
        except NucleiError as error:
            self.refuse(error)

    def refuse(self, error: NucleiError) -> None:
        if not self.refused.done():
            self.refused.set_result(error)


class _Connection:
    """A connection on which messages are awaited.

    Attributes:
        messages: in the order in which they began.
        taken: bytes of it that belong to messages that are whole, and to what came before them.
        left: whether the caller has left; gRPC ends its calls a moment later.
    """

    def __init__(self, received: int) -> None:
        self.messages: dict[Arriving, None] = {}
        self.taken = received
        self.left = False
        self._came = received
        self._told: tuple[int, int] | None = None
        self._quiet_ends = 0.0

    def look(self, came: int) -> None:
        """Args: came: bytes that ever came by it; 0 once its caller has left."""
        self._came = came
        self.left = not came

    def tell(self, now: float) -> None:
        """Tell the messages what is held of each, if that is news or was told long ago."""
        held = max(0, self._came - self.taken) // len(self.messages)
        if (held, self._came) == self._told and now < self._quiet_ends:
            return
        self._told, self._quiet_ends = (held, self._came), now + QUIET_S
        for message in list(self.messages):
            message.tell(held, self._came)


def _crowded() -> Overloaded:
    return Overloaded(
        f"{MAX_AWAITED} calls wait for their messages; send the message when the call begins, and "
        "open fewer calls at once",
        QUIET_S,
    )
