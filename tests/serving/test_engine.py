"""The engine over a real Triton."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from nuclei.errors import DeadlineExceeded, EngineFailed, EngineUnavailable, ModelNotFound
from nuclei.inference.deadline import NEVER, Deadline
from nuclei.inference.routing import Routing
from serving.engine import TritonEngine
from serving.triton.server import TritonServer
from tests.serving.tritons import StandIn
from tests.shipped import GRAPH, NETWORK, VERSION

RANGE = np.array([0, 255], np.float32)
MAPS = ("MAPS",)
MESSAGE_BYTES = 2**24


@pytest.fixture
async def engine(triton: TritonServer) -> AsyncIterator[TritonEngine]:
    opened = TritonEngine([triton.address], pixels=2**18, max_message_bytes=MESSAGE_BYTES)
    yield opened
    await opened.close()


def tile(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (side, side, 1)).astype(np.uint16)


@pytest.mark.parametrize("graph", ["unet", "unet_tta", GRAPH, f"{GRAPH}_tta"])
async def test_maps_have_the_size_of_the_tile(engine: TritonEngine, graph: str) -> None:
    contract = await engine.contract(GRAPH)
    answer = await engine.infer(graph, MAPS, tile(), RANGE, Deadline.after(30))
    assert answer["MAPS"].shape == (1, len(contract.maps), 64, 64)
    assert answer["MAPS"].dtype == np.uint8


async def test_a_catalogue_names_what_is_ready_and_what_a_name_means(engine: TritonEngine) -> None:
    (catalogue,) = await engine.catalogues()
    assert catalogue.routings == {"unet": Routing(VERSION)}
    assert {"unet", GRAPH, f"{GRAPH}_tta", NETWORK} <= catalogue.graphs


async def test_a_server_that_does_not_answer_gets_no_tiles(triton: TritonServer) -> None:
    both = TritonEngine(["127.0.0.1:1", triton.address], 2**18, MESSAGE_BYTES)
    for _ in range(3):
        answer = await both.infer(GRAPH, MAPS, tile(), RANGE, Deadline.after(30))
        assert answer["MAPS"].shape[2:] == (64, 64)
    assert len(await both.catalogues()) == 1
    await both.close()


async def test_unknown_graph_has_no_contract(engine: TritonEngine) -> None:
    with pytest.raises(ModelNotFound):
        await engine.contract("nosuch")


async def test_unknown_graph_is_not_found(engine: TritonEngine) -> None:
    with pytest.raises(ModelNotFound, match="nosuch"):
        await engine.infer("nosuch", MAPS, tile(), RANGE, NEVER)


@pytest.mark.parametrize("timeout_s", [0.0, 0.005])
async def test_time_runs_out(engine: TritonEngine, timeout_s: float) -> None:
    with pytest.raises(DeadlineExceeded):
        await engine.infer("unet_tta", MAPS, tile(256), RANGE, Deadline.after(timeout_s))


async def test_failure_keeps_the_details_of_triton_to_the_log(
    engine: TritonEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EngineFailed) as failed:
        await engine.infer("unet", MAPS, tile(), np.zeros(3, np.float32), NEVER)
    assert str(failed.value) == "inference with 'unet' failed; the server's log says why"
    assert "status=" in caplog.text


async def test_readiness_asks_for_every_graph(engine: TritonEngine) -> None:
    assert await engine.are_ready(["unet", "unet_tta"], 2)
    assert not await engine.are_ready(["unet", "nosuch"], 2)


async def test_absent_server_is_reported_at_once() -> None:
    engine = TritonEngine(["127.0.0.1:1"], pixels=2**18, max_message_bytes=MESSAGE_BYTES)
    started = time.monotonic()
    with pytest.raises(EngineUnavailable):
        await engine.infer("unet", MAPS, tile(), RANGE, Deadline.after(30))
    with pytest.raises(EngineUnavailable):
        await engine.catalogues()
    assert not await engine.are_ready(["unet"], 2)
    assert time.monotonic() - started < 2
    await engine.close()


async def test_a_server_that_ends_while_it_is_asked_does_not_answer(
    repository: Path, version: str
) -> None:
    async with StandIn(repository, int(version), {int(version)}).running() as triton:
        engine = TritonEngine([triton.address], 2**18, MESSAGE_BYTES)
        triton.silent = True
        asked = asyncio.create_task(engine.catalogues())
        while not triton.asked:
            await asyncio.sleep(0.01)
    with pytest.raises(EngineUnavailable) as failed:
        await asked
    assert failed.type is EngineUnavailable  # callers are told its name
    await engine.close()
