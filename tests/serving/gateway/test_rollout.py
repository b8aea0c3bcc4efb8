"""A challenger beside the champion: through a real gateway and a Triton with several versions."""

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families

from nuclei.client import Client, FrameIndex
from nuclei.inference.graph import graph_name
from nuclei.inference.routing import Routing
from serving.repository.configuration import CpuAccelerator
from serving.repository.export import export_version, set_routing
from serving.rollout_report import ModelRollout, RolloutReport
from serving.triton.control import TritonControl
from serving.triton.server import TritonServer
from tests.conftest import triton_server

pytestmark = pytest.mark.triton

MIN_FRAMES = 5
WAIT_S = 30.0
MODELS = ("unet", "unet_tta")
# Beyond the shipped version: the same networks, one that finds nonsense, and one that fails on
# tiles of another size than those that it is loaded with.
SAME, NONSENSE, FAILING = 1, 2, 3


def changed_network(
    artifacts: Path, folder: Path, *nodes: onnx.NodeProto, **constants: Any
) -> Path:
    """Artifacts whose network ends in nodes from ITS_MAPS to MAPS."""
    shutil.copytree(artifacts, folder)
    network = onnx.load(folder / "network.onnx")
    network.graph.node[-1].output[0] = "ITS_MAPS"
    network.graph.node.extend(nodes)
    for name, value in constants.items():
        network.graph.initializer.append(numpy_helper.from_array(value, name))
    onnx.save(network, folder / "network.onnx")
    return folder


@dataclass(frozen=True)
class Rollouts:
    """A gateway, and the routing of the Triton behind it."""

    repository: Path
    control: TritonControl
    url: str
    address: str
    log: Path
    shipped: int

    def report(self) -> list[ModelRollout]:
        answer = httpx.get(f"{self.url}/v1/rollout")
        assert answer.headers["content-type"] == "application/json"
        return RolloutReport.model_validate_json(answer.content).models

    def start(self, challenger: int | None, **shares: float) -> None:
        """Begin a new trial of a version beyond the shipped one, or end the one that runs."""
        self._route(None, {})
        if challenger is not None:
            self._route(self.shipped + challenger, shares)

    def trial(self) -> ModelRollout:
        (found,) = self.report()
        return found

    def compared(self, frames: int) -> ModelRollout:
        """The trial once so many frames are compared."""
        deadline = time.monotonic() + WAIT_S
        while (found := self.trial()).shadow.compared < frames:
            assert time.monotonic() < deadline, found.shadow
            time.sleep(0.05)
        return found

    def total(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _route(self, challenger: int | None, shares: dict[str, float]) -> None:
        routing = Routing(self.shipped, challenger, **shares)
        for name in set_routing(self.repository, "unet", routing):
            self.control.load(name)
        deadline = time.monotonic() + WAIT_S
        while [each.challenger for each in self.report()] != ([challenger] if challenger else []):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def served(
    repository: Path,
    shipped_artifacts: Path,
    version: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, TritonServer]]:
    folder = tmp_path_factory.mktemp("rollout")
    nonsense = changed_network(
        shipped_artifacts,
        folder / "nonsense",
        helper.make_node("Sub", ["FULL", "ITS_MAPS"], ["MAPS"]),
        FULL=np.array(255, np.uint8),
    )
    failing = changed_network(
        shipped_artifacts,
        folder / "failing",
        helper.make_node("Reshape", ["ITS_MAPS", "WHOLE"], ["MAPS"]),
        WHOLE=np.array([-1, 3, 512, 512]),
    )
    own = shutil.copytree(repository, folder / "repository")
    shipped = int(version)
    export_version(shipped_artifacts, own, shipped + SAME)
    plain = CpuAccelerator.ONNXRUNTIME
    export_version(nonsense, own, shipped + NONSENSE, accelerator=plain)
    export_version(failing, own, shipped + FAILING, accelerator=plain)
    with triton_server(own, folder / "triton") as running:
        control = TritonControl(running.address)
        for beyond in (SAME, NONSENSE, FAILING):
            for tta in (False, True):
                control.load(graph_name("unet", shipped + beyond, tta=tta))
        yield own, running


@pytest.fixture(scope="module")
def rollouts(
    served: tuple[Path, TritonServer],
    version: str,
    run_gateway: Callable[..., AbstractContextManager[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rollouts]:
    own, triton = served
    folder = tmp_path_factory.mktemp("gateway")
    settings = {"NUCLEI_ROLLOUT_MIN_FRAMES": str(MIN_FRAMES)}
    with run_gateway(folder, triton.address, **settings) as gateway:
        gateway.wait_ready()
        yield Rollouts(
            own,
            TritonControl(triton.address),
            gateway.url,
            gateway.grpc_address,
            folder / "gateway.log",
            int(version),
        )


@pytest.fixture
def client(rollouts: Rollouts) -> Iterator[Client]:
    with Client(rollouts.address) as connected:
        yield connected


def version_of(client: Client, frame: Path, acquisition: str = "", **options: Any) -> int:
    index = FrameIndex(acquisition_uid=acquisition) if acquisition else None
    return int(client.segment(frame, index=index, outputs={"centroids"}, **options).version)


def test_without_a_challenger_there_is_nothing_to_report(rollouts: Rollouts) -> None:
    rollouts.start(None)
    assert rollouts.report() == []


def test_a_canary_answers_whole_acquisitions(
    rollouts: Rollouts, client: Client, fluorescence: Path
) -> None:
    rollouts.start(SAME, canary=0.5)
    acquisitions = [f"acquisition-{number}" for number in range(12)]
    first, again = (
        {uid: version_of(client, fluorescence, uid) for uid in acquisitions} for _ in range(2)
    )
    assert first == again
    assert set(first.values()) == {rollouts.shipped, rollouts.shipped + SAME}
    trial = rollouts.trial()
    by_challenger = 2 * list(first.values()).count(rollouts.shipped + SAME)
    assert (trial.canary.answered, trial.canary.failed) == (by_challenger, 0)
    assert trial.canary.challenger_ms.frames == by_challenger
    assert trial.canary.champion_ms.frames == 24 - by_challenger
    assert 0 < trial.canary.challenger_ms.p50 <= trial.canary.challenger_ms.p99
    assert trial.shadow.chosen == 0


def test_the_frames_of_a_stream_are_answered_by_one_version(
    rollouts: Rollouts, client: Client, fluorescence: Path
) -> None:
    rollouts.start(SAME, canary=0.5)
    for _ in range(3):
        outcomes = list(client.stream([fluorescence] * 4))
        assert len({outcome.segmentation.version for outcome in outcomes}) == 1


def test_a_caller_who_asks_for_a_version_takes_no_part(
    rollouts: Rollouts, client: Client, fluorescence: Path
) -> None:
    rollouts.start(SAME, canary=1.0, shadow=1.0)
    for asked in (rollouts.shipped, rollouts.shipped + NONSENSE):
        assert version_of(client, fluorescence, version=asked) == asked
        answer = httpx.post(
            f"{rollouts.url}/v1/segment?version={asked}", content=fluorescence.read_bytes()
        )
        assert answer.headers["X-Model-Version"] == str(asked)
    # Nor one who adjusts the model: a trial compares versions as they were tuned.
    assert version_of(client, fluorescence, threshold=0.5) == rollouts.shipped
    trial = rollouts.trial()
    assert (trial.canary.answered, trial.shadow.chosen) == (0, 0)
    assert version_of(client, fluorescence) == rollouts.shipped + SAME


def test_a_challenger_that_fails_costs_no_frame_and_is_aborted(
    rollouts: Rollouts, client: Client, fluorescence: Path
) -> None:
    rollouts.start(FAILING, canary=1.0)
    for _ in range(MIN_FRAMES + 3):
        assert version_of(client, fluorescence) == rollouts.shipped
    trial = rollouts.trial()
    assert (trial.canary.answered, trial.canary.failed) == (0, MIN_FRAMES)
    assert trial.canary.error_rate == 1
    assert trial.verdict == "aborted"
    assert f"failed on {MIN_FRAMES} of {MIN_FRAMES} frames" in trial.reason
    version = str(rollouts.shipped + FAILING)
    assert rollouts.total("nuclei_rollout_aborts_total", version=version) == 1
    lines = [line for line in rollouts.log.read_text().splitlines() if "rollout aborted" in line]
    assert len([line for line in lines if f"challenger={version}" in line]) == 1


def test_an_aborted_challenger_is_tried_again_once_the_routing_has_named_another(
    rollouts: Rollouts, client: Client, fluorescence: Path
) -> None:
    rollouts.start(FAILING, canary=1.0)
    for _ in range(MIN_FRAMES):
        version_of(client, fluorescence)
    assert rollouts.trial().verdict == "aborted"
    rollouts.start(SAME, canary=1.0)
    assert rollouts.trial().verdict == "running"
    assert version_of(client, fluorescence) == rollouts.shipped + SAME


def test_an_abort_outlives_a_model_that_is_loaded_again(
    rollouts: Rollouts, client: Client, fluorescence: Path
) -> None:
    rollouts.start(FAILING, canary=1.0)
    for _ in range(MIN_FRAMES):
        version_of(client, fluorescence)
    reason = rollouts.trial().reason
    for name in MODELS:
        rollouts.control.unload(name)
    assert httpx.get(f"{rollouts.url}/v1/models").json()["models"] == []
    assert rollouts.report() == []
    for name in MODELS:
        rollouts.control.load(name)
    assert version_of(client, fluorescence) == rollouts.shipped
    assert (rollouts.trial().verdict, rollouts.trial().reason) == ("aborted", reason)


def test_a_shadow_is_compared_after_the_answer(
    rollouts: Rollouts, client: Client, fluorescence: Path
) -> None:
    rollouts.start(SAME, shadow=1.0)
    for sent in range(1, 4):
        answered = client.segment(fluorescence, tta=sent == 3)
        assert answered.version == str(rollouts.shipped)
        trial = rollouts.compared(sent)
    shadow = trial.shadow
    assert (shadow.chosen, shadow.failed, shadow.dropped) == (3, 0, {})
    assert shadow.champion_nuclei == shadow.challenger_nuclei > 2 * len(answered.nuclei)
    assert shadow.agreement.frames == 3
    assert shadow.agreement.mean == shadow.agreement.p05 == 1
    assert shadow.champion_tile_ms.frames == shadow.challenger_tile_ms.frames == 3
    assert trial.verdict == "running"
    version = str(rollouts.shipped + SAME)
    labels = {"model": "unet", "version": version, "outcome": "compared"}
    assert rollouts.total("nuclei_shadow_frames_total", **labels) >= 3
    assert rollouts.total("nuclei_in_flight_bytes") == 0


def test_a_challenger_that_finds_something_else_is_shown_and_aborted(
    rollouts: Rollouts, client: Client, fluorescence: Path
) -> None:
    rollouts.start(NONSENSE, shadow=1.0)
    for sent in range(1, MIN_FRAMES + 1):
        client.segment(fluorescence, request_id=f"frame-{sent}")
        trial = rollouts.compared(sent)
    assert trial.verdict == "aborted"
    assert "agree with the champion's by AP@.5 = " in trial.reason
    assert trial.shadow.agreement.mean is not None
    assert trial.shadow.agreement.mean < 0.2
    assert {worst.request_id for worst in trial.worst} == {
        f"frame-{sent}" for sent in range(1, MIN_FRAMES + 1)
    }
    png = np.frombuffer(base64.b64decode(trial.worst[0].png), np.uint8)
    assert cv2.imdecode(png, cv2.IMREAD_COLOR).shape == (256, 256, 3)
    client.segment(fluorescence)
    assert rollouts.trial().shadow.chosen == MIN_FRAMES


def test_a_shadow_waits_for_callers(rollouts: Rollouts, client: Client, fluorescence: Path) -> None:
    rollouts.start(SAME, shadow=1.0)
    # Of a stream, the next frame is there when one is done: a busy machine leaves no pause between.
    for outcome in client.stream([fluorescence] * 10):
        assert outcome.segmentation
    trial = rollouts.compared(1)
    assert trial.shadow.dropped == {"occupied": 9}
