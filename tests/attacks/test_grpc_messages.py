"""Messages that are longer than their method needs, and how much of them the gateway keeps."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nuclei.process.ports import LOOPBACK
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub
from serving.gateway import metrics

Listen = Callable[..., AbstractAsyncContextManager[Any]]

TOKEN = "a-token-of-thirty-two-characters"
MIB = 2**20
MESSAGE_BYTES = 64 * MIB
# Half of what four calls send. Flow control lets some arrive before they are answered: 80 MiB were
# seen on a busy machine.
KEPT_BYTES = 2 * MESSAGE_BYTES
# Sends the same long message in four calls at once, and says how each ended.
SENDER = """
import sys, grpc
address, method, n_bytes, token = sys.argv[1:]
with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
    call = channel.unary_unary(method)
    metadata = (("authorization", f"Bearer {token}"),)
    calls = [call.future(bytes(int(n_bytes)), 20, metadata) for _ in range(4)]
    print(*(each.code().name for each in calls))
"""


async def send(address: str, method: str, n_bytes: int, token: str) -> tuple[list[str], int]:
    """How the calls of another process ended, and by how much the memory of this one grew."""
    process = psutil.Process()
    before = most = process.memory_info().rss
    sender = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SENDER, address, method, str(n_bytes), token),
        stdout=asyncio.subprocess.PIPE,
    )
    ended = asyncio.ensure_future(sender.communicate())
    while not ended.done():
        await asyncio.wait({ended}, timeout=0.005)
        most = max(most, process.memory_info().rss)
    return ended.result()[0].decode().split(), most - before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "token", "status"),
    [
        ("/grpc.health.v1.Health/Check", "wrong", "OK"),
        ("/nuclei.v1.Segmentation/Segment", "wrong", "UNAUTHENTICATED"),
        ("/nuclei.v1.Segmentation/Nothing", "wrong", "UNAUTHENTICATED"),
        ("/grpc.health.v1.Health/Nothing", "wrong", "UNIMPLEMENTED"),
    ],
)
async def test_nothing_that_a_stranger_sends_is_kept(
    listen: Listen, method: str, token: str, status: str
) -> None:
    async with listen(token=TOKEN) as ports:
        await send(ports.grpc_address, method, 1, token)
        statuses, growth = await send(ports.grpc_address, method, MESSAGE_BYTES, token)
    assert statuses == [status] * 4
    assert growth < KEPT_BYTES


async def test_health_is_the_servers_whatever_is_asked(listen: Listen) -> None:
    async with listen() as ports, grpc.aio.insecure_channel(ports.grpc_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "nuclei.v1.Segmentation", "nothing"):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_compressed_messages_are_refused_before_they_unfold(listen: Listen) -> None:
    async with listen() as ports, grpc.aio.insecure_channel(ports.grpc_address) as channel:
        segment: Any = channel.unary_unary("/nuclei.v1.Segmentation/Segment")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await segment(bytes(MIB), timeout=5, compression=grpc.Compression.Gzip)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


class SlowLine:
    """Passes bytes on to a port at a limited speed, and counts them; `open` lets it stop."""

    def __init__(self, port: int, bytes_per_s: int) -> None:
        self.passed = 0
        self.open = asyncio.Event()
        self.open.set()
        self._port = port
        self._chunk = bytes_per_s // 50
        self._ends: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "SlowLine":
        self._server = await asyncio.start_server(self._open, LOOPBACK, 0)
        self.address = f"{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.open.set()
        for end in self._ends:
            end.transport.abort()
        waiting = [end.wait_closed() for end in self._ends]
        await asyncio.gather(*self._tasks, *waiting, return_exceptions=True)

    async def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(LOOPBACK, self._port)
        self._ends += [writer, to_server]
        self._tasks += [
            asyncio.create_task(self._send(reader, to_server)),
            asyncio.create_task(self._send_back(from_server, writer)),
        ]

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(self._chunk):
            self.passed += len(data)
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.02)
            await self.open.wait()

    async def _send_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)


@pytest.mark.parametrize("method", ["Segment", "SegmentStream", "GetServerInfo"])
async def test_message_is_refused_while_it_arrives(listen: Listen, method: str) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with (
        listen(max_bytes_in_flight=10 * MIB) as ports,
        SlowLine(ports.grpc, bytes_per_s=20 * MIB) as line,
        grpc.aio.insecure_channel(line.address, options) as channel,
    ):
        call: Any = channel.stream_unary(f"/nuclei.v1.Segmentation/{method}")
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(iter([bytes(48 * MIB)]), timeout=10)
        assert time.monotonic() - started < 2
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert line.passed < 24 * MIB


def frame(n_bytes: int) -> pb.SegmentStreamRequest:
    """A frame of grey pixels, in rows of 1024."""
    raw = pb.RawPixels(
        data=bytes(n_bytes), height=n_bytes // 1024, width=1024, pixel_type=pb.PIXEL_TYPE_UINT8
    )
    request = pb.SegmentRequest(frame=pb.Frame(raw=raw))
    return pb.SegmentStreamRequest(frame=pb.StreamFrame(request=request))


def reserved() -> tuple[float, float]:
    """Frames and bytes that the gateway of this process holds."""
    gauges = metrics.FRAMES_IN_FLIGHT, metrics.BYTES_IN_FLIGHT
    frames, n_bytes = (gauge.collect()[0].samples[0].value for gauge in gauges)
    return frames, n_bytes


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def slow_engine(listen: Listen, max_bytes_in_flight: int) -> AsyncIterator[Any]:
    """A gateway in which frames stay in work for some seconds: nobody answers for Triton."""
    ends: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: ends.append(writer), LOOPBACK, 0)
    address = f"{LOOPBACK}:{silent.sockets[0].getsockname()[1]}"
    settings = {"max_bytes_in_flight": max_bytes_in_flight, "max_frames_in_work": 1}
    try:
        async with listen(triton_address=address, **settings) as ports:
            yield ports
    finally:
        silent.close()
        for end in ends:
            end.transport.abort()


async def test_memory_of_another_calls_message_is_not_kept_by_an_idle_stream(
    listen: Listen,
) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with (
        listen() as ports,
        SlowLine(ports.grpc, bytes_per_s=20 * MIB) as line,
        grpc.aio.insecure_channel(line.address, options) as channel,
    ):
        stub: Any = SegmentationStub(channel)
        stream = stub.SegmentStream()
        await stream.write(pb.SegmentStreamRequest(settings=pb.StreamSettings()))
        segmenting = asyncio.ensure_future(stub.Segment(frame(12 * MIB).frame.request).code())
        await until(lambda: reserved()[1] > 8 * MIB)
        assert await segmenting is grpc.StatusCode.UNAVAILABLE
        await until(lambda: reserved() == (0, 0))
        assert not stream.done()


async def test_a_frame_keeps_the_memory_that_was_reserved_while_it_arrived(
    listen: Listen,
) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with (
        slow_engine(listen, max_bytes_in_flight=12 * MIB) as ports,
        SlowLine(ports.grpc, bytes_per_s=20 * MIB) as line,
        grpc.aio.insecure_channel(line.address, options) as first,
        grpc.aio.insecure_channel(ports.grpc_address, options) as second,
    ):
        stub: Any = SegmentationStub(first)
        arriving = stub.SegmentStream()
        sending = asyncio.ensure_future(arriving.write(frame(8 * MIB)))
        await until(lambda: line.passed > 7 * MIB)
        line.open.clear()
        await until(lambda: reserved()[1] > 6.5 * MIB)
        stub = SegmentationStub(second)
        waiting = stub.SegmentStream()
        await waiting.write(frame(6 * MIB))
        await asyncio.sleep(0.3)
        assert reserved()[0] == 0
        line.open.set()
        await sending
        # What the other message had got is given back a moment later.
        await until(lambda: reserved() == (1, 8 * MIB))


async def test_messages_that_got_parts_of_their_memory_do_not_wait_for_each_other(
    listen: Listen,
) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with (
        slow_engine(listen, max_bytes_in_flight=12 * MIB) as ports,
        SlowLine(ports.grpc, bytes_per_s=20 * MIB) as first_line,
        SlowLine(ports.grpc, bytes_per_s=20 * MIB) as second_line,
        grpc.aio.insecure_channel(first_line.address, options) as first,
        grpc.aio.insecure_channel(second_line.address, options) as second,
    ):
        calls: list[Any] = [SegmentationStub(each).SegmentStream() for each in (first, second)]
        first_sent = asyncio.ensure_future(calls[0].write(frame(8 * MIB)))
        await until(lambda: first_line.passed > 5 * MIB)
        first_line.open.clear()
        second_sent = asyncio.ensure_future(calls[1].write(frame(8 * MIB)))
        await until(lambda: second_line.passed > 5 * MIB)
        second_line.open.clear()
        await until(lambda: reserved()[1] > 9.5 * MIB)
        first_line.open.set()
        second_line.open.set()
        await asyncio.gather(first_sent, second_sent)
        for call in calls:
            answer = await asyncio.wait_for(call.read(), 20)
            assert answer.error.name == "EngineUnavailable"


async def test_a_message_without_memory_ends_its_stream_before_all_of_it_has_come(
    listen: Listen,
) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with (
        slow_engine(listen, max_bytes_in_flight=20 * MIB) as ports,
        SlowLine(ports.grpc, bytes_per_s=20 * MIB) as line,
        grpc.aio.insecure_channel(line.address, options) as channel,
    ):
        stub: Any = SegmentationStub(channel)
        stream = stub.SegmentStream()
        long = frame(64 * MIB)
        await stream.write(frame(2**16))
        await until(lambda: reserved()[0] == 1)
        sending = asyncio.ensure_future(stream.write(long))
        async with asyncio.timeout(10):
            with suppress(grpc.aio.AioRpcError):
                while await stream.read() is not grpc.aio.EOF:
                    pass
        statuses = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT
        assert await stream.code() in statuses
        assert line.passed < 40 * MIB
        await asyncio.gather(sending, return_exceptions=True)
        await until(lambda: reserved() == (0, 0))


@pytest.mark.parametrize("method", ["Segment", "SegmentStream"])
async def test_nothing_is_held_of_a_message_whose_caller_leaves(
    listen: Listen, method: str
) -> None:
    options = [("grpc.max_send_message_length", -1)]
    async with (
        listen() as ports,
        SlowLine(ports.grpc, bytes_per_s=20 * MIB) as line,
        grpc.aio.insecure_channel(line.address, options) as channel,
    ):
        start: Any = channel.stream_stream(f"/nuclei.v1.Segmentation/{method}")
        call = start(iter([bytes(64 * MIB)]))
        await until(lambda: reserved()[1] > 4 * MIB)
        call.cancel()
        await until(lambda: reserved() == (0, 0))


async def test_a_frame_that_is_there_holds_as_much_as_it_has(listen: Listen) -> None:
    async with (
        slow_engine(listen, max_bytes_in_flight=40 * MIB) as ports,
        grpc.aio.insecure_channel(ports.grpc_address) as channel,
        httpx.AsyncClient(base_url=ports.url) as http,
    ):
        stub: Any = SegmentationStub(channel)
        call = stub.Segment(frame(3 * MIB).frame.request)
        await until(lambda: reserved() == (1, 3 * MIB))
        post = asyncio.ensure_future(http.post("/v1/segment", content=bytes(2 * MIB)))
        await until(lambda: reserved() == (2, 5 * MIB))
        call.cancel()
        await until(lambda: reserved() == (1, 2 * MIB))
        post.cancel()
        await until(lambda: reserved() == (0, 0))
