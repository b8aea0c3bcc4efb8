"""Many connections that do nothing, at both ports."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nuclei.process.ports import LOOPBACK

Listen = Callable[..., AbstractAsyncContextManager[Any]]

LIMIT = 32
FLOOD = 3 * LIMIT
OTHER_HOST = "127.0.0.2"


@asynccontextmanager
async def flood(
    port: int, host: str = LOOPBACK, sent: bytes = b""
) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connections from one host that fall silent after some bytes; the server may end them."""
    opened = []
    try:
        for _ in range(FLOOD):
            opened.append(await asyncio.open_connection(LOOPBACK, port, local_addr=(host, 0)))
            opened[-1][1].write(sent)
        await asyncio.sleep(1.2)
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.transport.abort()
        await asyncio.gather(*(w.wait_closed() for _, w in opened), return_exceptions=True)


async def is_open(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(), 0.1)
    except TimeoutError:
        return True
    except ConnectionError:
        pass
    return False


async def answers(ports: Any) -> None:
    """Both ports answer whoever comes now."""
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{ports.url}/livez", timeout=3)).status_code == 200
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(ports.grpc_address, options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=3)


@pytest.mark.parametrize(
    ("protocol", "sent"),
    [
        ("http", b""),
        ("http", b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nx"),
        ("grpc", b""),
    ],
)
async def test_silent_connections_make_room(listen: Listen, protocol: str, sent: bytes) -> None:
    async with listen(max_connections=LIMIT) as ports:
        port = getattr(ports, protocol)
        async with flood(port, sent=sent) as readers:
            held = await asyncio.gather(*map(is_open, readers))
            assert sum(held) <= LIMIT // 2
            await answers(ports)
            async with flood(port, OTHER_HOST):
                await answers(ports)
        await answers(ports)


async def test_flood_does_not_end_a_stream(listen: Listen) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with (
        listen(max_connections=LIMIT) as ports,
        grpc.aio.insecure_channel(ports.grpc_address) as channel,
    ):
        stream: Any = channel.stream_stream("/nuclei.v1.Segmentation/SegmentStream")(nothing())
        await asyncio.sleep(0.3)
        async with flood(ports.grpc):
            assert not stream.done()


async def test_watches_are_limited(listen: Listen) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with listen() as ports, grpc.aio.insecure_channel(ports.grpc_address, options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
        firsts = await asyncio.gather(*(watch.read() for watch in watches), return_exceptions=True)
        refused = [each for each in firsts if isinstance(each, grpc.aio.AioRpcError)]
        assert 40 <= len(refused) < 100
        assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        await answers(ports)


@pytest.mark.parametrize(
    ("limits", "says"), [((64, 64), "ulimit -n"), ((64, 4096), "open files: 2304")]
)
def test_descriptors_suffice_or_the_start_says_what_to_do(
    limits: tuple[int, int], says: str
) -> None:
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, {limits})
from nuclei.errors import InvalidOption
from serving.gateway.connections import provide_descriptors
from serving.gateway.settings import GatewaySettings
try:
    provide_descriptors(GatewaySettings())
    print("open files:", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except InvalidOption as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert says in ran.stdout, ran.stderr
