"""Callers over HTTP that do not take their answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nuclei.process.ports import LOOPBACK, free_ports
from serving.gateway.http_frames import HeldResponse
from serving.gateway.http_server import HttpServer
from serving.gateway.settings import GatewaySettings

BODY = bytes(32 * 2**20)


@asynccontextmanager
async def serving(release: Callable[[], None]) -> AsyncIterator[tuple[Any, Any]]:
    """A connection to a server that is asked for a long answer."""

    async def answer(request: Request) -> Response:
        response = HeldResponse(BODY)
        response.release = release
        return response

    (port,) = free_ports(1)
    settings = GatewaySettings(http_port=port, reader_timeout_s=1, drain_s=0)
    server = HttpServer(Starlette(routes=[Route("/", answer)]), settings)
    await server.start()
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(8):
        yield reader, writer
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
        await server.stop()


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
