"""Connections that are held without a request or a call, or with one that has no end."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from nuclei.process.ports import LOOPBACK
from serving.gateway.http_server import HEADER_S, KEEP_ALIVE_S, REST_S

Listen = Callable[..., AbstractAsyncContextManager[Any]]

TOKEN = "a-token-of-thirty-two-characters"
SLACK_S = 1.5


async def held_s(port: int, sent: bytes, then: bytes = b"") -> float:
    """Seconds until the server closes a connection that sends this, then a little every second."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    started = time.monotonic()
    writer.write(sent)
    try:
        while True:
            try:
                async with asyncio.timeout(1):
                    if not await reader.read(2**16):
                        break
            except TimeoutError:
                writer.write(then)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.asyncio
async def test_no_phase_of_a_connection_lasts_longer_than_its_deadline(listen: Listen) -> None:
    start = b"GET /livez HTTP/1.1\r\n"
    upload = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"
    async with listen(token=TOKEN) as ports:
        kinds = {
            "silent": (held_s(ports.http, b""), HEADER_S),
            "half a header": (held_s(ports.http, start, then=b"X: y\r\n"), HEADER_S),
            "answered": (held_s(ports.http, start + b"Host: x\r\n\r\n"), KEEP_ALIVE_S),
            "then half a header": (
                held_s(ports.http, start + b"Host: x\r\n\r\n", then=b"G"),
                HEADER_S + 1,
            ),
            "body of a refused request": (held_s(ports.http, upload, then=b"x"), REST_S),
        }
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for sent in (b"", preface[:10], preface):
            kinds[f"gRPC, {len(sent)} bytes"] = (held_s(ports.grpc, sent), HEADER_S)
        times = await asyncio.gather(*(kind for kind, _ in kinds.values()))
        for (name, (_, longest)), seconds in zip(kinds.items(), times, strict=True):
            assert longest - 0.1 <= seconds < longest + SLACK_S, name
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{ports.url}/livez")).status_code == 200
