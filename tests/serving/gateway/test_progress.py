"""Readiness and liveness follow what is completed."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from serving.decoding.decoders import Decoders
from serving.engine import TritonEngine
from serving.gateway import progress
from serving.gateway.data_plane import DataPlane
from serving.gateway.settings import GatewaySettings
from serving.triton.server import TritonServer

MESSAGE_BYTES = 2**24
START_S = 30.0


@asynccontextmanager
async def watched(address: str, executor: ThreadPoolExecutor) -> AsyncIterator[DataPlane]:
    """A data plane that nobody sends frames to."""
    settings = GatewaySettings()
    decoders = Decoders(1, executor)
    decoders.start()
    engine = TritonEngine([address], settings.triton_pixels, MESSAGE_BYTES)
    data_plane = DataPlane(engine, decoders, executor, settings)
    watching = asyncio.create_task(data_plane.watch_progress())
    try:
        yield data_plane
    finally:
        watching.cancel()
        await engine.close()
        await decoders.close()


async def until(ready: bool, data_plane: DataPlane) -> None:
    async with asyncio.timeout(START_S):
        while await data_plane.is_ready() != ready:
            await asyncio.sleep(0.05)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "READY_S", 2.0)
    monkeypatch.setattr(progress, "ALIVE_S", 3.0)
    monkeypatch.setattr(progress, "QUIET_S", 0.3)
    monkeypatch.setattr(progress, "INTERVAL_S", 0.1)


@pytest.mark.usefixtures("impatient")
async def test_readiness_ends_while_no_thread_comes_free(triton: TritonServer) -> None:
    free = threading.Event()
    with ThreadPoolExecutor(2) as executor:
        try:
            async with watched(triton.address, executor) as data_plane:
                assert not await data_plane.is_ready()
                await until(True, data_plane)
                for _ in range(2):
                    executor.submit(free.wait)
                await until(False, data_plane)
                await asyncio.sleep(2)
                assert not data_plane.progress.is_alive
                free.set()
                await until(True, data_plane)
                assert data_plane.progress.is_alive
        finally:
            free.set()


@pytest.mark.usefixtures("impatient")
async def test_a_gateway_without_triton_is_alive_and_not_ready() -> None:
    with ThreadPoolExecutor(1) as executor:
        async with watched("127.0.0.1:9", executor) as data_plane:
            await asyncio.sleep(4)
            assert data_plane.progress.is_alive
            assert not await data_plane.is_ready()
