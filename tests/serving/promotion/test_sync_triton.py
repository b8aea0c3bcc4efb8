"""Sync beside a real Triton and a gateway: frames flow while versions change."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from starlette.testclient import TestClient

from nuclei.client import Client
from nuclei.errors import EngineUnavailable, NucleiError, RegistryUnavailable
from nuclei.process.ports import free_ports
from serving.promotion import sync as sync_module
from serving.promotion.changes import promote, rollback
from serving.promotion.listener import listener
from serving.promotion.readiness import Readiness
from serving.promotion.servers import TritonBeside
from serving.promotion.synced import SyncedRepository
from serving.registry import Registry
from serving.triton.control import TritonControl
from serving.triton.server import TritonServer
from tests.conftest import Gateway
from tests.serving.promotion.site import FAMILY, MODEL, Following, Site, other_answer

pytestmark = pytest.mark.triton

SECONDS = 60.0


@dataclass
class Served:
    """A site whose champion is served by Triton and a gateway."""

    site: Site
    triton: TritonServer
    gateway: Gateway

    def sync(self) -> Following:
        """A new sync process, which remembers nothing."""
        server = TritonBeside(self.triton.control, self.site.repository)
        return self.site.sync(server=server, retire_s=0.5)

    def loaded(self) -> list[int]:
        return TritonBeside(self.triton.control, self.site.repository).loaded(FAMILY)

    def wait_for(self, version: int) -> None:
        """Wait until the gateway answers by a version."""
        frame = np.zeros((64, 64), np.uint8)
        deadline = time.monotonic() + SECONDS
        with Client(self.gateway.grpc_address) as client:
            while client.segment(frame).version != str(version):
                assert time.monotonic() < deadline
                time.sleep(0.05)


@dataclass
class Frames:
    """Frames that are sent one after the other as long as the block runs."""

    address: str
    versions: list[str] = field(default_factory=list)
    failures: list[NucleiError] = field(default_factory=list)

    def __enter__(self) -> "Frames":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _send(self) -> None:
        # Several tiles each: a version that is unloaded between two of them would be missed.
        frame = np.random.default_rng(0).integers(0, 255, (700, 700)).astype(np.uint8)
        with Client(self.address) as client:
            while not self._over.is_set():
                try:
                    self.versions.append(client.segment(frame).version)
                except NucleiError as error:
                    self.failures.append(error)


@pytest.fixture(scope="module")
def served(
    registered: Path,
    tmp_path_factory: pytest.TempPathFactory,
    run_gateway: Callable[..., AbstractContextManager[Gateway]],
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    uri = f"sqlite:///{shutil.copy(registered / 'mlflow.db', folder)}"
    site = Site(folder, Registry(uri), MlflowClient(uri, uri))
    promote(site.registry, MODEL, 1)
    site.sync().round()
    (port,) = free_ports(1)
    with (
        TritonServer(site.repository.folder, folder / "state", metrics_port=port) as triton,
        run_gateway(folder, triton.address) as gateway,
    ):
        gateway.wait_ready()
        yield Served(site, triton, gateway)


def test_versions_change_without_a_failed_frame(served: Served) -> None:
    sync, registry = served.sync(), served.site.registry
    with Frames(served.gateway.grpc_address) as frames:
        for version in (2, 3):
            promote(registry, MODEL, version)
            sync.round()
            served.wait_for(version)
        rollback(registry, MODEL)
        sync.round()
        served.wait_for(2)
        deadline = time.monotonic() + SECONDS
        while served.loaded() != [1, 2] and served.loaded() != [2]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            sync.round()
    assert not frames.failures
    assert set(frames.versions) >= {"2", "3"}
    assert [v for n, v in enumerate(frames.versions) if n == 0 or v != frames.versions[n - 1]] in (
        ["1", "2", "3", "2"],
        ["2", "3", "2"],
    )


def test_a_version_that_answers_otherwise_is_refused_and_the_champion_serves(
    served: Served, complete: Path, tmp_path: Path
) -> None:
    bad = shutil.copytree(complete, tmp_path / "bad")
    other_answer(bad)
    version = served.site.register(bad)
    before = served.site.served()[0]
    served.site.champion(version)
    with Frames(served.gateway.grpc_address) as frames:
        served.sync().round()
        served.sync().round()
    assert "its reference" in served.site.refused(version)
    assert served.site.served()[0] == before
    assert version not in served.loaded()
    assert not frames.failures
    assert set(frames.versions) == {str(before)}
    served.site.champion(before or 1)


def test_a_triton_that_dies_while_it_loads_a_version_gets_it_once_it_is_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, before = served.site, served.site.served()[0]
    version = 3 if before != 3 else 2
    pid = served.triton.pid
    assert pid is not None

    class Dying(TritonBeside):
        def load(self, family: str, version: int) -> None:
            threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
            super().load(family, version)

    monkeypatch.setattr(sync_module, "RETRY_S", 0.0)
    served.wait_for(before or 0)
    TritonBeside(served.triton.control, site.repository).unload(FAMILY, version)
    site.champion(version)
    dying = site.sync(server=Dying(served.triton.control, site.repository))
    with pytest.raises(EngineUnavailable):
        dying.round()
    assert not site.refused(version)
    served.triton.stop()
    served.triton.start()
    assert version not in served.loaded(), "it does not start with what it died of"
    served.sync().round()
    served.wait_for(version)
    assert site.store.attempts(version) == 0


def test_a_triton_is_ready_once_every_champion_is_loaded_and_answers(
    served: Served, tmp_path: Path
) -> None:
    beside = TritonBeside(served.triton.control, served.site.repository)
    readiness = Readiness(beside)
    client = TestClient(listener(None, lambda: None, dict, lambda: readiness.problem))
    assert client.get("/readyz").status_code == 503, "nobody has looked yet"
    readiness.problem = readiness.look()
    assert client.get("/readyz").text == "ready\n"

    nothing_synced = TritonBeside(beside.control, SyncedRepository(tmp_path / "synced"))
    assert "no champion" in Readiness(nothing_synced).look()

    beside.control.unload(FAMILY)
    readiness.problem = readiness.look()
    assert client.get("/readyz").status_code == 503
    assert client.get("/readyz").text == f"Triton has not loaded {FAMILY}\n"
    beside.control.load(FAMILY)
    assert not readiness.look()

    (port,) = free_ports(1)
    gone = TritonBeside(TritonControl(f"127.0.0.1:{port}"), beside.repository)
    assert "does not answer" in Readiness(gone).look()


def test_frames_are_answered_while_the_registry_is_gone(served: Served) -> None:
    (port,) = free_ports(1)
    gone = Registry(f"http://127.0.0.1:{port}")
    with Frames(served.gateway.grpc_address) as frames:
        for _ in range(2):
            with pytest.raises(RegistryUnavailable):
                served.site.sync(registry=gone).round()
        served.wait_for(served.site.served()[0] or 0)
    assert not frames.failures


def test_triton_starts_again_with_what_sync_left_even_if_a_spare_version_is_broken(
    served: Served,
) -> None:
    promote(served.site.registry, MODEL, 3)
    served.sync().round()
    spare = [version for version in served.site.served()[1] if version != 3]
    assert spare
    network = served.site.repository.folder / f"{FAMILY}_network.{spare[0]}"
    (network / str(spare[0]) / "model.onnx").write_bytes(b"no network")
    served.triton.stop()
    served.triton.start()
    assert 3 in served.loaded()
    assert spare[0] not in served.loaded()
    served.gateway.wait_ready()
    served.wait_for(3)
