"""What sync follows: what was served becomes a champion, before Triton starts and after."""

import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nuclei.errors import Conflict, ModelNotFound, RegistryUnavailable
from nuclei.inference.routing import Routing
from nuclei.process.ports import LOOPBACK, free_ports
from serving.promotion.changes import refuse
from serving.promotion.lock import locked
from serving.promotion.loop import Followed, Loop, prepare
from serving.promotion.servers import ThisProcess
from serving.promotion.settings import SyncSettings
from serving.promotion.state import read_state
from serving.promotion.synced import SyncedRepository
from serving.promotion.trial import Gateways
from serving.registry import RegisteredModel, Registry
from serving.repository.checks import check_repository
from serving.repository.export import export_version, set_routing
from serving.settings import ServeSettings
from serving.supervision import sync_process
from tests.serving.promotion.site import FAMILY, MODEL, Site


@pytest.fixture
def given(complete: Path, tmp_path: Path) -> Path:
    """A repository whose version 3 is in no registry."""
    repository = tmp_path / "given"
    export_version(complete, repository, 3)
    set_routing(repository, FAMILY, Routing(3))
    return repository


@pytest.fixture
def settings(given: Path, site: Site) -> SyncSettings:
    """The registry has versions of the model, and no champion."""
    return SyncSettings(
        sync=site.registry.tracking_uri, state=site.folder / "state", repository=given
    )


def followed(settings: SyncSettings, registry: Registry) -> Followed:
    server = ThisProcess(SyncedRepository(settings.synced))
    return Followed(settings, registry, server, Gateways((), "", None))


def test_what_was_served_is_registered_once_and_becomes_the_champion(
    settings: SyncSettings, site: Site
) -> None:
    for _ in range(2):
        prepare(settings, site.registry)
    state = read_state(site.registry, MODEL)
    assert state.champion == 4, "a new version behind the three that are registered"
    assert len(state.versions) == 4
    assert [each.change.action for each in state.changes] == ["adopt"]
    repository = SyncedRepository(settings.synced)
    assert repository.routing(FAMILY) == Routing(4)
    check_repository(repository.folder)


class Counting(Registry):
    """Notes which models were read."""

    def __init__(self, tracking_uri: str) -> None:
        super().__init__(tracking_uri)
        self.read: list[str] = []

    def model(self, name: str) -> RegisteredModel:
        self.read.append(name)
        return super().model(name)


@dataclass(frozen=True)
class Asked(ThisProcess):
    """Notes how often it was asked what it has loaded."""

    questions: list[str] = field(default_factory=list)

    def loaded(self, family: str) -> list[int]:
        self.questions.append(family)
        return super().loaded(family)


def test_a_round_reads_each_model_once_and_asks_no_more_for_each_refused_version(
    settings: SyncSettings, site: Site
) -> None:
    registry = Counting(site.registry.tracking_uri)
    server = Asked(SyncedRepository(settings.synced))
    models = Followed(settings, registry, server, Gateways((), "", None))
    models.round()
    asked = []
    for refused in ((1,), (1, 2, 3)):
        for version in refused:
            refuse(site.registry, MODEL, version, "spoilt")
        registry.read.clear()
        server.questions.clear()
        models.round()
        assert registry.read == [MODEL]
        asked.append(len(server.questions))
    assert asked[0] == asked[1]


def test_a_model_that_is_asked_for_and_not_registered_is_said_to_be_missing(
    settings: SyncSettings, site: Site
) -> None:
    asked = settings.model_copy(update={"sync_models": "nuclei-linknet"})
    with pytest.raises(ModelNotFound, match="nuclei-linknet"):
        followed(asked, site.registry).round()


def test_a_service_that_began_without_registry_goes_over_to_it(
    settings: SyncSettings, site: Site, given: Path
) -> None:
    repository = SyncedRepository(settings.synced)
    repository.seed(given)
    assert repository.routing(FAMILY) == Routing(3)
    followed(settings, site.registry).round()
    assert repository.routing(FAMILY) == Routing(4)


def test_another_version_of_the_same_number_is_replaced_before_triton_starts_only(
    settings: SyncSettings, site: Site, given: Path
) -> None:
    network = given / f"{FAMILY}_network.3" / "3" / "model.onnx"
    network.write_bytes(network.read_bytes() + b"\x7a\x01x")
    repository = SyncedRepository(settings.synced)
    repository.seed(given)
    site.champion(3)
    with pytest.raises(Conflict, match="restart the service"):
        followed(settings, site.registry).round()
    assert not site.refused(3)
    prepare(settings, site.registry)
    assert repository.routing(FAMILY) == Routing(3)
    assert repository.digest(FAMILY, 3)


def test_what_is_served_stays_while_somebody_else_changes_the_model(
    settings: SyncSettings, site: Site, given: Path
) -> None:
    repository = SyncedRepository(settings.synced)
    repository.seed(given)
    with locked(site.registry, MODEL, "another service"), pytest.raises(Conflict, match="another"):
        prepare(settings, site.registry)
    assert repository.routing(FAMILY) == Routing(3)


def test_the_same_version_is_taken_over_as_it_is(
    settings: SyncSettings, site: Site, given: Path
) -> None:
    repository = SyncedRepository(settings.synced)
    repository.seed(given)
    site.champion(3)
    network = repository.folder / f"{FAMILY}_network.3" / "3" / "model.onnx"
    before = network.stat().st_mtime_ns
    followed(settings, site.registry).round()
    assert repository.digest(FAMILY, 3)
    assert network.stat().st_mtime_ns == before


def test_without_registry_a_service_starts_with_what_is_there(
    settings: SyncSettings, given: Path
) -> None:
    (port,) = free_ports(1)
    serve = ServeSettings(
        sync=f"http://{LOOPBACK}:{port}",
        state=settings.state,
        repository=given,
        sync_prepare_s=60,
    )
    signs: list[float] = []
    sync_process.prepare(serve, lambda: signs.append(time.monotonic()))
    repository = SyncedRepository(serve.served_repository)
    assert repository.routing(FAMILY) == Routing(3)
    assert signs
    shutil.rmtree(given)
    sync_process.prepare(serve, lambda: None)
    assert repository.routing(FAMILY) == Routing(3)


class Flaky:
    """Models whose registry is away for some rounds."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.rounds = 0

    def round(self, alone: bool = False) -> bool:
        self.rounds += 1
        self.left -= 1
        if self.left >= 0:
            raise RegistryUnavailable("the registry at http://secret does not answer")
        return False


def test_a_loop_goes_on_after_failures_and_says_how_it_is(tmp_path: Path) -> None:
    models = Flaky(2)
    health = tmp_path / "sync" / "health"
    loop = Loop(models, 0.05, health)
    thread = threading.Thread(target=loop.run)
    thread.start()
    seen = set()
    deadline = time.monotonic() + 30
    while models.rounds < 5 and time.monotonic() < deadline:
        if health.exists():
            seen.add(health.read_text().split(" last")[0])
        time.sleep(0.01)
    loop.stop()
    thread.join()
    assert models.rounds >= 5
    assert seen == {"sync: failing,", "sync:"}
    assert loop.status()["ok"]


def test_a_woken_loop_does_not_wait(tmp_path: Path) -> None:
    models = Flaky(0)
    loop = Loop(models, 3600, tmp_path / "health")
    thread = threading.Thread(target=loop.run)
    thread.start()
    deadline = time.monotonic() + 30
    while models.rounds < 3 and time.monotonic() < deadline:
        loop.wake()
        time.sleep(0.01)
    loop.stop()
    thread.join()
    assert models.rounds >= 3
