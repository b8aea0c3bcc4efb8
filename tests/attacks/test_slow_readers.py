"""Callers over HTTP that do not take their answers, and answers that cannot be finished."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nuclei.errors import InternalError
from nuclei.process.ports import LOOPBACK, free_ports
from serving.gateway.http_frames import HeldResponse
from serving.gateway.http_server import HttpServer
from serving.gateway.settings import GatewaySettings

BODY = bytes(32 * 2**20)
PIECE = bytes(2**18)


@asynccontextmanager
async def listening(
    release: Callable[[], object], rest: Callable[[], AsyncIterator[bytes]] | None = None
) -> AsyncIterator[int]:
    """The port of a server with a long answer, which is made at once or piece by piece."""

    async def answer(request: Request) -> Response:
        response = HeldResponse(BODY) if rest is None else HeldResponse(PIECE, rest=rest())
        held = ExitStack()
        held.callback(release)
        response.held = held
        return response

    (port,) = free_ports(1)
    settings = GatewaySettings(http_port=port, reader_timeout_s=1, drain_s=0)
    app = Starlette(routes=[Route("/", answer)])
    app.state.drained = asyncio.Event()
    server = HttpServer(app, settings)
    await server.start()
    async with asyncio.timeout(8):
        yield port
        await server.stop()


@asynccontextmanager
async def serving(
    release: Callable[[], object], rest: Callable[[], AsyncIterator[bytes]] | None = None
) -> AsyncIterator[tuple[Any, Any]]:
    """A connection to a server that is asked for a long answer."""
    async with listening(release, rest) as port:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        yield reader, writer
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_answer_counts_until_it_is_taken_and_only_for_a_time() -> None:
    released = asyncio.Event()
    async with serving(released.set) as (reader, _):
        await asyncio.sleep(0.5)
        assert not released.is_set()
        await released.wait()
        with suppress(ConnectionError):
            assert len(await reader.read(-1)) < len(BODY)


async def test_caller_who_reads_gets_all_of_the_answer() -> None:
    async with serving(lambda: None) as (reader, _):
        received = await reader.read(-1)
        assert received.endswith(BODY)
        assert len(received) < len(BODY) + 1000


async def test_an_answer_that_cannot_be_finished_is_seen_to_be_broken() -> None:
    async def rest() -> AsyncIterator[bytes]:
        yield PIECE
        raise InternalError("the rest cannot be made")

    released = asyncio.Event()
    async with listening(released.set, rest) as port, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            await client.get(f"http://{LOOPBACK}:{port}/")
        assert released.is_set()


async def test_nothing_more_is_made_for_a_caller_who_has_left() -> None:
    made = 0

    async def rest() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield PIECE
            await asyncio.sleep(0.01)

    released = asyncio.Event()
    async with serving(released.set, rest) as (reader, writer):
        await reader.readexactly(4 * len(PIECE))
        writer.transport.abort()
        await released.wait()
        until = made
        await asyncio.sleep(0.2)
        assert made == until
