"""Callers that take the places of others without sending a frame."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import httpx
import pytest

from nuclei.process.ports import LOOPBACK
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub
from serving.gateway.grpc_call import QUESTION_S

Listen = Callable[..., AbstractAsyncContextManager[Any]]

OTHER_HOST = "127.0.0.2"
CALLS = 64


async def nothing() -> AsyncIterator[bytes]:
    """What a caller sends that keeps a call open: no message, and no end."""
    await asyncio.Event().wait()
    yield b""


async def grpc_error(address: str) -> str:
    """How a small frame of another connection ends."""
    frame = pb.Frame(encoded=b"no image")
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        try:
            await SegmentationStub(channel).Segment(pb.SegmentRequest(frame=frame), timeout=5)
        except grpc.aio.AioRpcError as error:
            metadata = {key: value for key, value in error.trailing_metadata() or ()}
            return str(metadata.get("nuclei-error", error.code()))
    return ""


async def http_error(url: str, host: str = LOOPBACK) -> str:
    transport = httpx.AsyncHTTPTransport(local_address=host)
    async with httpx.AsyncClient(transport=transport) as http:
        answer = await http.post(f"{url}/v1/segment", content=b"no image", timeout=5)
        return str(answer.json()["title"])


async def others_get_in(ports: Any) -> None:
    """Without a Triton, whoever is let in learns that there is none."""
    assert await grpc_error(ports.grpc_address) == "EngineUnavailable"
    assert await http_error(ports.url) == "EngineUnavailable"


@pytest.mark.parametrize("method", ["Segment", "GetServerInfo"])
async def test_calls_without_a_message_hold_nothing(listen: Listen, method: str) -> None:
    async with listen() as ports, grpc.aio.insecure_channel(ports.grpc_address) as channel:
        start: Any = channel.stream_stream(f"/nuclei.v1.Segmentation/{method}")
        calls = [start(nothing()) for _ in range(CALLS)]
        await asyncio.sleep(0.5)
        assert not any(call.done() for call in calls)
        await others_get_in(ports)


async def test_idle_streams_hold_no_place_and_leave_some_streams_to_others(
    listen: Listen,
) -> None:
    async with listen() as ports, grpc.aio.insecure_channel(ports.grpc_address) as channel:
        start: Any = channel.stream_stream("/nuclei.v1.Segmentation/SegmentStream")
        calls = [start(nothing()) for _ in range(CALLS)]
        await asyncio.sleep(0.5)
        refused = [call for call in calls if call.done()]
        assert 0 < len(refused) < CALLS // 2
        for call in refused:
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await others_get_in(ports)


REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


async def test_calls_of_reflection_are_few_and_leave_some_to_others(listen: Listen) -> None:
    async with listen() as ports, grpc.aio.insecure_channel(ports.grpc_address) as channel:
        start: Any = channel.stream_stream(REFLECTION)
        calls = [start(nothing()) for _ in range(CALLS)]
        await asyncio.sleep(0.5)
        refused = [call for call in calls if call.done()]
        assert 0 < len(refused) < CALLS
        for call in refused:
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await others_get_in(ports)


@pytest.mark.slow
@pytest.mark.parametrize("method", [REFLECTION, "/nuclei.v1.Segmentation/GetServerInfo"])
async def test_a_question_that_never_comes_ends_its_call(listen: Listen, method: str) -> None:
    async with listen() as ports, grpc.aio.insecure_channel(ports.grpc_address) as channel:
        call: Any = channel.stream_stream(method)(nothing())
        async with asyncio.timeout(QUESTION_S + 5):
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@asynccontextmanager
async def posting(port: int, length: int, sent: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A connection with a request that announces a length and sends a part of it."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    header = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    writer.write(header.encode() + sent)
    try:
        yield reader
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_announced_length_is_checked_and_reserves_nothing(listen: Listen) -> None:
    async with listen() as ports, AsyncExitStack() as stack:
        async with posting(ports.http, 3 * 2**30, b"") as reader:
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 413")
        for _ in range(CALLS):
            await stack.enter_async_context(posting(ports.http, 2**30, b"x"))
        await asyncio.sleep(0.3)
        await others_get_in(ports)


async def test_memory_of_half_sent_bodies_leaves_some_to_other_hosts(listen: Listen) -> None:
    mib = 2**20
    async with listen(max_bytes_in_flight=40 * mib) as ports, AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(posting(ports.http, 8 * mib, bytes(4 * mib)))
        await asyncio.sleep(0.5)
        assert await http_error(ports.url, OTHER_HOST) == "EngineUnavailable"
