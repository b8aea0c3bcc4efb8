"""Sync: what it makes of a repository and a registry, killed anywhere, fed anything.

The server here is this process, which runs the same ONNX files; a real Triton is in
`test_sync_triton.py`.
"""

import asyncio
import multiprocessing
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from prometheus_client import REGISTRY

from nuclei.errors import EngineFailed, EngineUnavailable, RegistryUnavailable
from nuclei.inference.reference import REFERENCE_FILES
from nuclei.inference.routing import Routing
from nuclei.process.ports import LOOPBACK, free_ports
from serving.promotion import sync as sync_module
from serving.promotion.artifacts import digest
from serving.promotion.changes import promote, record_gates, rollback
from serving.promotion.servers import ThisProcess, TritonBeside
from serving.promotion.state import ROLLOUT_TAG, Gates, Phase, Rollout, read_state
from serving.promotion.store import Store
from serving.promotion.synced import SyncedRepository
from serving.registry import RegisteredVersion, Registry
from serving.repository.checks import check_repository
from serving.triton.control import TritonControl
from tests.serving.promotion.site import FAMILY, MODEL, Site, other_answer
from tests.serving.tritons import StandIn


def test_the_champion_is_served_and_the_one_before_kept(site: Site) -> None:
    sync = site.sync()
    sync.round()
    assert site.served() == (None, [])
    for version in (1, 2, 3):
        promote(site.registry, MODEL, version)
        sync.round()
        assert site.served()[0] == version
    assert site.served() == (3, [2, 3])
    check_repository(site.repository.folder)
    rollback(site.registry, MODEL)
    sync.round()
    assert site.served() == (2, [2]), "1 comes back when it is wanted"
    status = read_state(site.registry, MODEL).syncs["here"]
    assert status.champion == 2
    assert set(status.loaded) == set(site.served()[1])


def test_a_round_that_finds_all_done_writes_nothing(site: Site) -> None:
    sync = site.sync()
    promote(site.registry, MODEL, 1)
    sync.round()
    before = {path: path.stat().st_mtime_ns for path in site.folder.rglob("*") if path.is_file()}
    sync.round()
    after = {path: path.stat().st_mtime_ns for path in site.folder.rglob("*") if path.is_file()}
    assert before == after


def test_a_rollout_is_routed_with_its_share(site: Site) -> None:
    sync = site.sync()
    promote(site.registry, MODEL, 1)
    sync.round()
    promote(site.registry, MODEL, 2, [Phase(mode="shadow", fraction=0.25, frames=10)])
    sync.round()
    assert site.repository.routing(FAMILY) == Routing(1, 2, shadow=0.25)
    rollback(site.registry, MODEL)
    sync.round()
    assert site.repository.routing(FAMILY) == Routing(1)
    assert site.served() == (1, [1])


def test_what_has_not_passed_the_gates_is_not_served(site: Site, complete: Path) -> None:
    version = site.registry.register(MODEL, complete, {})
    promote(site.registry, MODEL, 1)
    site.sync().round()
    site.champion(version)
    site.sync().round()
    assert site.served() == (1, [1])
    assert not site.refused(version), "its gates may pass later"


def test_registered_versions_are_counted_by_verdict(site: Site, complete: Path) -> None:
    site.registry.register(MODEL, complete, {})
    refused = site.registry.register(MODEL, complete, {})
    gates = Gates(verdict="refused", reason="worse", digest=digest(complete))
    record_gates(site.registry, MODEL, refused, gates)
    site.sync().round()
    counts = {
        verdict: REGISTRY.get_sample_value(
            "nuclei_sync_registered_versions", {"model": MODEL, "verdict": verdict}
        )
        for verdict in ("passed", "refused", "none")
    }
    assert counts == {"passed": 3, "refused": 1, "none": 1}


def corrupt_network(artifacts: Path) -> None:
    (artifacts / "network.onnx").write_bytes(b"no network")


def foreign_family(artifacts: Path) -> None:
    contract = artifacts / "contract.json"
    contract.write_text(contract.read_text().replace('"unet"', '"linknet"'))


def lost_reference(artifacts: Path) -> None:
    for name in REFERENCE_FILES.values():
        (artifacts / name).unlink()


def pickled_reference(artifacts: Path) -> None:
    np.save(artifacts / "x.npy", np.array([{}], object), allow_pickle=True)
    (artifacts / "x.npy").rename(artifacts / REFERENCE_FILES["grey"])


@pytest.mark.parametrize(
    "spoil",
    [
        *(corrupt_network, foreign_family, lost_reference, pickled_reference),
        *(partial(other_answer, kind=kind) for kind in REFERENCE_FILES),
    ],
)
def test_a_version_that_cannot_serve_is_refused_and_not_tried_again(
    site: Site, complete: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    bad = shutil.copytree(complete, tmp_path / "bad")
    spoil(bad)
    version = site.register(bad)
    promote(site.registry, MODEL, 1)
    sync = site.sync()
    sync.round()
    site.champion(version)
    sync.round()
    assert site.refused(version)
    assert site.served() == (1, [1])
    assert site.store.find(version) is None
    downloads = []

    def note(entry: RegisteredVersion, folder: Path) -> Path:
        downloads.append(entry)
        return folder

    site.registry.download = note  # type: ignore[method-assign]
    site.sync().round()
    assert not downloads


def test_files_that_were_changed_after_the_gates_are_refused(site: Site, complete: Path) -> None:
    version = site.registry.register(MODEL, complete, {})
    gates = Gates(verdict="passed", digest="0" * 64)
    record_gates(site.registry, MODEL, version, gates)
    site.champion(version)
    site.sync().round()
    assert "the gates judged" in site.refused(version)
    assert site.served() == (None, [])


@pytest.mark.parametrize("source", ["runs:/{run}/model/../../../../x", "file://{folder}/away"])
def test_a_version_whose_files_are_elsewhere_is_refused(
    site: Site, complete: Path, source: str
) -> None:
    elsewhere = shutil.copytree(complete, site.folder / "away")
    (elsewhere / "passwd").symlink_to("/etc/passwd")
    run = site.registry.begun_run("hostile")
    where = source.format(run=run.id, folder=site.folder)
    entry = site.client.create_model_version(MODEL, where, run.id)
    version = int(entry.version)
    record_gates(site.registry, MODEL, version, Gates(verdict="passed", digest="0" * 64))
    site.champion(version)
    site.sync().round()
    assert "no folder of the run" in site.refused(version)
    assert not list((site.folder / "versions").rglob("passwd"))


def test_a_store_that_does_not_answer_is_no_reason_to_refuse(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(site.registry, MODEL, 1)
    site.sync().round()
    promote(site.registry, MODEL, 2)

    def down(*given: object, **more: object) -> None:
        raise ConnectionError("connection refused")

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.artifacts.download_artifacts", down)
        with pytest.raises(RegistryUnavailable, match="refused"):
            site.sync().round()
    assert site.served() == (1, [1])
    assert not site.refused(2)
    site.sync().round()
    assert site.served()[0] == 2


def test_a_triton_that_is_down_is_no_reason_to_refuse(site: Site) -> None:
    (port,) = free_ports(1)
    down = TritonBeside(TritonControl(f"{LOOPBACK}:{port}"), site.repository)
    promote(site.registry, MODEL, 1)
    sync = site.sync(server=down)
    for _ in range(sync_module.MAX_ATTEMPTS + 1):
        with pytest.raises(EngineUnavailable):
            sync.round()
    assert not site.refused(1)
    site.sync().round()
    assert site.served() == (1, [1])


@pytest.fixture
async def full(site: Site) -> AsyncIterator[StandIn]:
    """A Triton that serves version 1 and has no memory for another."""
    promote(site.registry, MODEL, 1)
    await asyncio.to_thread(site.sync().round)
    triton = StandIn(site.repository.folder, 1, {1})
    triton.full = "failed to load the model: std::bad_alloc"
    async with triton.running():
        yield triton


async def test_a_version_that_could_not_be_loaded_for_a_moment_is_tried_again(
    site: Site, full: StandIn
) -> None:
    sync = site.sync(server=TritonBeside(TritonControl(full.address), site.repository))
    promote(site.registry, MODEL, 2)
    for _ in range(sync_module.MAX_ATTEMPTS + 1):
        with pytest.raises(EngineFailed, match="bad_alloc"):
            await asyncio.to_thread(sync.round)
    assert not site.refused(2)
    assert site.store.attempts(2) == 1, "the next attempt waits for its time"
    assert site.served() == (1, [1]), "a Triton that starts again does not begin with it"
    assert read_state(site.registry, MODEL).syncs["here"].champion == 1
    await asyncio.to_thread(site.sync().round)
    assert site.served() == (2, [1, 2])
    assert site.store.attempts(2) == 0


async def test_a_version_on_which_a_working_triton_fails_again_and_again_is_refused(
    site: Site, full: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_module, "RETRY_S", 0.0)
    sync = site.sync(server=TritonBeside(TritonControl(full.address), site.repository))
    promote(site.registry, MODEL, 2)
    full.broken = True
    for _ in range(sync_module.MAX_ATTEMPTS + 1):
        with pytest.raises(EngineFailed, match="bad_alloc"):
            await asyncio.to_thread(sync.round)
    assert site.store.attempts(2) == 0, "the champion fails as well: it is not to blame"
    full.broken = False
    for _ in range(sync_module.MAX_ATTEMPTS):
        with pytest.raises(EngineFailed, match="bad_alloc"):
            await asyncio.to_thread(sync.round)
    await asyncio.to_thread(sync.round)
    assert "bad_alloc" in site.refused(2)
    assert site.served() == (1, [1])


def test_what_is_left_of_a_registry_before_is_fetched_anew(site: Site) -> None:
    """The numbers of a new registry begin again; the folder of the machine is still there."""
    entry = read_state(site.registry, MODEL).find(1)
    stored = site.store.fetch(site.registry, entry.registered, entry.admitted or "")
    corrupt_network(stored.folder)
    (stored.folder.parent / "digest").write_text(digest(stored.folder))
    promote(site.registry, MODEL, 1)
    site.sync().round()
    assert site.served() == (1, [1])
    assert not site.refused(1)


def test_a_challenger_that_cannot_be_fetched_keeps_no_champion_from_its_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = site.sync()
    for version in (1, 2):
        promote(site.registry, MODEL, version)
        sync.round()
    promote(site.registry, MODEL, 3, [Phase(mode="shadow", fraction=0.5, frames=10)])
    site.champion(1)

    def down(*given: object, **more: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", down)
    with pytest.raises(RegistryUnavailable, match="TimeoutError"):
        sync.round()
    assert site.served()[0] == 1
    assert read_state(site.registry, MODEL).syncs["here"].champion == 1


def test_versions_stay_until_every_process_has_switched(site: Site) -> None:
    other = Site(site.folder / "other", site.registry, site.client)
    here, there = site.sync(), other.sync(instance="there")
    for version in (1, 2, 3):
        promote(site.registry, MODEL, version)
        there.round()
        if version == 1:
            here.round()
    assert other.served() == (3, [1, 2, 3]), "the other one is still at 1"
    here.round()
    there.round()
    assert other.served() == (3, [2, 3])


def test_what_is_kept_is_bounded(site: Site) -> None:
    sync = site.sync()
    for version in (1, 2, 3, 2):
        promote(site.registry, MODEL, version)
        sync.round()
    there = [version for version in (1, 2, 3) if site.store.find(version)]
    assert there == [1, 2, 3], "two in use and one to spare"
    Store(site.folder / "versions", MODEL, 0, 10**9).trim([2, 3])
    assert site.store.find(1) is None
    Store(site.folder / "versions", MODEL, 9, 1).trim([2])
    assert site.store.find(3) is None
    assert site.store.find(2) is not None


STEPS: list[tuple[Any, str]] = [
    (Store, "fetch"),
    (SyncedRepository, "add"),
    (ThisProcess, "load"),
    (ThisProcess, "prove"),
    (SyncedRepository, "route"),
    (ThisProcess, "route"),
    (ThisProcess, "unload"),
    (SyncedRepository, "remove"),
    (Store, "trim"),
    (sync_module, "report_status"),
    (sync_module, "refuse"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[f"{o.__name__}.{s}" for o, s in STEPS])
def test_killed_at_any_step_it_goes_on_where_it_was(
    site: Site, complete: Path, tmp_path: Path, owner: object, step: str, when: str
) -> None:
    """A child process does a round with all steps, and kills itself at one of them."""
    bad = shutil.copytree(complete, tmp_path / "bad")
    corrupt_network(bad)
    refused = site.register(bad)
    for version in (1, 2):
        promote(site.registry, MODEL, version)
        site.sync().round()
    promote(site.registry, MODEL, 3)
    site.registry.set_alias(MODEL, "challenger", refused)
    rollout = Rollout(
        version=refused,
        phases=(Phase(mode="shadow", fraction=0.5, frames=9),),
        who="x",
        since=datetime.now(UTC),
    )
    site.registry.set_tags(MODEL, {ROLLOUT_TAG: rollout.to_tag()})
    assert killed(site, owner, step, when), "the round has no such step"
    site.sync().round()
    assert site.served() == (3, [2, 3])
    assert site.refused(refused)
    check_repository(site.repository.folder)
    assert read_state(site.registry, MODEL).syncs["here"].champion == 3
    assert not list(site.folder.rglob("*incoming*"))


def killed(site: Site, owner: object, step: str, when: str) -> bool:
    """Whether a round in a child process was killed at a step."""
    # Forked, because importing MLflow takes longer than a round; by a process that has done no
    # more, since a thread of this one may hold a lock that its child would wait for.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    child = context.Process(
        target=_round,
        args=(site.folder, site.registry.tracking_uri, STEPS.index((owner, step)), when),
        # One that hangs fails its test, and does not keep pytest from ending.
        daemon=True,
    )
    child.start()
    child.join(120)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def _round(folder: Path, tracking_uri: str, number: int, when: str) -> None:
    owner, step = STEPS[number]
    original = getattr(owner, step)

    def cut(*given: object, **more: object) -> object:
        if when == "after":
            original(*given, **more)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    setattr(owner, step, cut)
    site = Site(folder, Registry(tracking_uri), MlflowClient(tracking_uri, tracking_uri))
    site.sync().round()
