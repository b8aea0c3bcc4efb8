"""Messages that are awaited: what they are told, and how many there may be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from nuclei.errors import FrameTooLarge, NucleiError, Overloaded
from nuclei.process.ports import LOOPBACK
from serving.gateway.arrivals import LOOK_S, MAX_AWAITED, Arrivals, Arriving
from serving.gateway.peers import Peers

MIB = 2**20


class Message:
    """What one message was told."""

    def __init__(self, error: NucleiError | None = None) -> None:
        self.told: list[tuple[int, int]] = []
        self._error = error

    def arrived(self, n_bytes: int, came: int) -> None:
        self.told.append((n_bytes, came))
        if self._error is not None:
            raise self._error


class Line:
    """A connection to a server of this process, both of its ends."""

    def __init__(self, ours: asyncio.StreamWriter, theirs: asyncio.StreamWriter) -> None:
        self.caller = "{}:{}".format(*ours.get_extra_info("peername"))
        self.port = ours.get_extra_info("sockname")[1]
        self._ends = ours, theirs

    async def send(self, n_bytes: int) -> None:
        self._ends[1].write(bytes(n_bytes))
        await self._ends[1].drain()

    async def close(self) -> None:
        for end in self._ends:
            end.transport.abort()
            with suppress(ConnectionError):
                await end.wait_closed()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Arrivals, Line]]:
    """A connection, and what watches its messages."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accepted.put(writer)
        while await reader.read(MIB):
            pass

    async with await asyncio.start_server(accept, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, theirs = await asyncio.open_connection(LOOPBACK, port)
        line = Line(await accepted.get(), theirs)
        arrivals = Arrivals(port)
        watching = asyncio.create_task(arrivals.watch())
        try:
            yield arrivals, line
        finally:
            watching.cancel()
            await line.close()


async def looks(count: int) -> None:
    await asyncio.sleep((count + 0.5) * LOOK_S)


async def test_messages_of_a_connection_share_what_it_holds() -> None:
    async with connected() as (arrivals, line):
        await line.send(1000)
        await looks(0)
        first, second = Message(), Message()
        arriving = arrivals.begin(line.caller, first.arrived)
        arrivals.begin(line.caller, second.arrived)
        await line.send(2 * MIB)
        await looks(2)
        assert first.told[-1] == second.told[-1] == (MIB, 2 * MIB + 1000)
        arrivals.end(arriving, 3 * MIB // 2)
        await looks(2)
        assert second.told[-1] == (MIB // 2, 2 * MIB + 1000)
        assert first.told[-1] != second.told[-1]


async def test_a_message_of_which_nothing_comes_is_rarely_told_so() -> None:
    async with connected() as (arrivals, line):
        message = Message()
        arrivals.begin(line.caller, message.arrived)
        await looks(7)
        assert len(message.told) == 1


async def test_nothing_is_held_of_a_caller_that_has_left() -> None:
    async with connected() as (arrivals, line):
        message = Message()
        arrivals.begin(line.caller, message.arrived)
        await line.send(MIB)
        await looks(2)
        assert message.told[-1] == (MIB, MIB)
        await line.close()
        await looks(2)
        assert message.told[-1] == (0, 0)
        assert Peers().received(line.caller, line.port) == 0


async def test_what_a_message_raises_refuses_it_alone() -> None:
    async with connected() as (arrivals, line):
        refused = arrivals.begin(line.caller, Message(FrameTooLarge("too large")).arrived)
        other = arrivals.begin(line.caller, Message().arrived)
        assert isinstance(await asyncio.wait_for(refused.refused, 5), FrameTooLarge)
        assert not other.refused.done()


async def test_where_too_many_are_awaited_the_connection_with_most_of_them_gives_way() -> None:
    arrivals = Arrivals(1)

    def begin(caller: str) -> Arriving:
        return arrivals.begin(caller, Message().arrived)

    other = begin("other:1")
    greedy = [begin("greedy:1") for _ in range(MAX_AWAITED - 1)]
    assert not any(each.refused.done() for each in greedy)
    newest = begin("new:1")
    assert isinstance(greedy[0].refused.result(), Overloaded)
    assert not any(each.refused.done() for each in (other, newest, *greedy[1:]))


@pytest.mark.parametrize("times", [1, 2])
async def test_a_message_that_is_no_longer_awaited_leaves_nothing(times: int) -> None:
    async with connected() as (arrivals, line):
        message = Message()
        arriving = arrivals.begin(line.caller, message.arrived)
        for _ in range(times):
            arrivals.end(arriving, MIB)
        told = len(message.told)
        await line.send(MIB)
        await looks(2)
        assert len(message.told) == told
