"""Attacks on the service, as tests: what a stranger, a neighbour or a bad file must not achieve.

Rules, for whoever adds one:
- Loopback only, against servers that the test itself started.
- Bounded: at most 1,000 connections, 64 MB sent and 30 s, and all is closed at the end.
- Each asserts what others still get meanwhile (an answer, a typed error) and what the attack leaves
  (memory, connections, places), not how the defence is made.

Here: the two servers of a gateway in the process of the test, without a Triton unless one is named.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from nuclei.process.ports import LOOPBACK, free_ports
from serving.decoding.decoders import Decoders
from serving.engine import TritonEngine
from serving.gateway.connections import ConnectionLimit
from serving.gateway.data_plane import DataPlane
from serving.gateway.grpc_server import GrpcServer
from serving.gateway.http_routes import http_app
from serving.gateway.http_server import HttpServer
from serving.gateway.security import Token
from serving.gateway.settings import GatewaySettings

NO_TRITON = f"{LOOPBACK}:1"


@dataclass(frozen=True)
class Ports:
    """Where they listen, on loopback."""

    http: int
    grpc: int

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.http}"

    @property
    def grpc_address(self) -> str:
        return f"{LOOPBACK}:{self.grpc}"


@asynccontextmanager
async def listening(**settings: object) -> AsyncIterator[Ports]:
    """Both servers with these settings, in the running event loop."""
    http_port, grpc_port = free_ports(2)
    ports = {"http_port": http_port, "grpc_port": grpc_port}
    gateway = GatewaySettings(**ports | {"drain_s": 0, "triton_address": NO_TRITON} | settings)
    token = Token(gateway)
    engine = TritonEngine(
        gateway.triton_addresses, gateway.triton_pixels, gateway.max_message_bytes
    )
    with ThreadPoolExecutor(gateway.threads) as executor:
        app = http_app(gateway, token)
        decoders = Decoders(gateway.max_frames_in_work + 1, executor)
        app.state.data_plane = DataPlane(engine, decoders, executor, gateway)
        http, grpc = HttpServer(app, gateway), GrpcServer(app.state.data_plane, gateway, token)
        await http.start()
        await grpc.start()
        upkeep = [
            asyncio.create_task(ConnectionLimit(gateway, app.state.data_plane.admission).run())
        ]
        # Without a Triton no frame gets so far that it is decoded.
        if gateway.triton_address != NO_TRITON:
            decoders.start()
            upkeep.append(asyncio.create_task(app.state.data_plane.watch_progress()))
        try:
            yield Ports(http_port, grpc_port)
        finally:
            for task in upkeep:
                task.cancel()
            await http.stop()
            await grpc.stop()
            await engine.close()
            await decoders.close()


@pytest.fixture(scope="session")
def listen() -> Callable[..., AbstractAsyncContextManager[Ports]]:
    """Runs the servers for as long as a test likes: `async with listen(token=...) as ports`."""
    return listening
