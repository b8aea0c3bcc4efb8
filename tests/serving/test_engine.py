"""The engine over a real Triton."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from nuclei.errors import DeadlineExceeded, EngineFailed, EngineUnavailable, ModelNotFound
from nuclei.inference.deadline import NEVER, Deadline
from nuclei.inference.model_config import parse_model_config
from serving.engine import TritonEngine
from serving.triton.server import TritonServer

RANGE = np.array([0, 255], np.float32)
MAPS = ("MAPS",)
MESSAGE_BYTES = 2**24


@pytest.fixture
async def engine(triton: TritonServer) -> AsyncIterator[TritonEngine]:
    opened = TritonEngine(triton.address, pixels=2**18, max_message_bytes=MESSAGE_BYTES)
    yield opened
    await opened.close()


def tile(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (side, side, 1)).astype(np.uint16)


@pytest.mark.parametrize("graph", ["unet", "unet_tta"])
async def test_maps_have_the_size_of_the_tile(engine: TritonEngine, graph: str) -> None:
    contract = await engine.contract("unet")
    answer = await engine.infer(graph, MAPS, tile(), RANGE, Deadline.after(30))
    assert answer.outputs["MAPS"].shape == (1, len(contract.maps), 64, 64)
    assert answer.outputs["MAPS"].dtype == np.uint8
    assert answer.version.isdigit()


async def test_models_are_those_with_a_contract(engine: TritonEngine) -> None:
    (served,) = await engine.models()
    assert (served.name, served.tta) == ("unet", True)
    assert served.contract == await engine.contract("unet")
    assert served.version == (await engine.infer("unet", MAPS, tile(), RANGE, NEVER)).version


@pytest.mark.parametrize("model", ["nosuch", "merge", ""])
async def test_unknown_model_has_no_contract(engine: TritonEngine, model: str) -> None:
    with pytest.raises(ModelNotFound):
        await engine.contract(model)


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
    assert await engine.is_ready(["unet", "unet_tta"], 2)
    assert not await engine.is_ready(["unet", "nosuch"], 2)


async def test_absent_server_is_reported_at_once() -> None:
    engine = TritonEngine("127.0.0.1:1", pixels=2**18, max_message_bytes=MESSAGE_BYTES)
    started = time.monotonic()
    with pytest.raises(EngineUnavailable):
        await engine.infer("unet", MAPS, tile(), RANGE, Deadline.after(30))
    with pytest.raises(EngineUnavailable):
        await engine.models()
    assert not await engine.is_ready(["unet"], 2)
    assert time.monotonic() - started < 2
    await engine.close()


async def test_new_version_brings_its_own_contract(
    own_triton: TritonServer, own_repository: Path
) -> None:
    engine = TritonEngine(own_triton.address, pixels=2**18, max_message_bytes=MESSAGE_BYTES)
    first = await engine.infer("unet", MAPS, tile(), RANGE, NEVER)
    contract = await engine.contract("unet")

    folder = own_repository / "unet"
    (folder / str(int(first.version) + 1)).mkdir()
    changed = replace(contract, postprocessing=replace(contract.postprocessing, min_area_px=999))
    config = parse_model_config((folder / "config.pbtxt").read_text(), "unet")
    config.parameters["contract"].string_value = changed.to_json()
    (folder / "config.pbtxt").write_text(str(config))
    with InferenceServerClient(own_triton.address) as control:
        control.load_model("unet")

    second = await engine.infer("unet", MAPS, tile(), RANGE, NEVER)
    assert int(second.version) == int(first.version) + 1
    assert await engine.contract("unet") == changed
    assert (await engine.models())[0].version == second.version
    await engine.close()


async def test_unreadable_contract_is_not_the_callers_fault(
    own_triton: TritonServer, own_repository: Path
) -> None:
    path = own_repository / "unet" / "config.pbtxt"
    config = parse_model_config(path.read_text(), "unet")
    config.parameters["contract"].string_value = "{}"
    path.write_text(str(config))
    with InferenceServerClient(own_triton.address) as control:
        control.load_model("unet")
    engine = TritonEngine(own_triton.address, pixels=2**18, max_message_bytes=MESSAGE_BYTES)
    with pytest.raises(EngineFailed, match="unet"):
        await engine.contract("unet")
    await engine.close()
