"""Registries in which versions are promoted: a database, and a real server."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.reference import REFERENCE_FILE, Reference
from nuclei.inference.routing import Routing
from serving.promotion.artifacts import digest
from serving.promotion.changes import record_gates
from serving.promotion.state import Gates, ModelState, read_state
from serving.registry import Registry
from serving.repository.export import export_version, set_routing
from tests.serving.promotion.site import FAMILY, Site

MODEL = "nuclei-unet"
VERSIONS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Filled:
    """A registry with four versions of a model, which passed their gates; none is champion.

    Attributes:
        registry: of the versions.
        client: MLflow's own.
    """

    registry: Registry
    client: MlflowClient

    def state(self) -> ModelState:
        return read_state(self.registry, MODEL)

    def aliases(self) -> dict[str, int]:
        return self.registry.model(MODEL).aliases

    def actions(self) -> list[tuple[str, int | None, int | None]]:
        """The audit trail: action, from, to."""
        changes = (entry.change for entry in self.state().changes)
        return [(change.action, change.from_version, change.to_version) for change in changes]


def fill(client: MlflowClient, location: str | None, folder: Path) -> None:
    """Register a model with four versions whose gates passed."""
    experiment = client.create_experiment("promotion", location)
    client.create_registered_model(MODEL)
    for number in VERSIONS:
        files = folder / str(number)
        files.mkdir()
        (files / "contract.json").write_text(f'{{"family": "{number}"}}')
        run = client.create_run(experiment)
        client.log_artifacts(run.info.run_id, str(files), "model")
        for key, value in {"epochs": 10 * number, "seed": 0}.items():
            client.log_param(run.info.run_id, key, value)
        tags = {"dsb_score": f"0.{number}", "licence": "Apache-2.0"}
        source = f"runs:/{run.info.run_id}/model"
        client.create_model_version(MODEL, source, run.info.run_id, tags=tags)
        gates = Gates(verdict="passed", reason="all gates passed", digest=digest(files))
        record_gates(Registry(client.tracking_uri), MODEL, number, gates)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of a filled registry, which tests copy: MLflow makes one in 3 s."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    fill(MlflowClient(uri, uri), (folder / "files").as_uri(), folder)
    return folder


@pytest.fixture
def filled(template: Path, tmp_path: Path) -> Filled:
    """A registry of its own for one test; the files of the versions are shared."""
    uri = f"sqlite:///{shutil.copy(template / 'mlflow.db', tmp_path)}"
    return Filled(Registry(uri), MlflowClient(uri, uri))


@pytest.fixture
def sql(filled: Filled) -> Callable[..., None]:
    """Writes into the database behind MLflow's back: `sql("UPDATE ...", value)`."""
    import sqlite3

    def execute(statement: str, *values: object) -> None:
        with sqlite3.connect(filled.registry.tracking_uri.removeprefix("sqlite:///")) as database:
            assert database.execute(statement, values).rowcount

    return execute


@pytest.fixture(scope="session")
def complete(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of a tiny U-Net with its reference."""
    folder = shutil.copytree(artifacts, tmp_path_factory.mktemp("complete") / "artifacts")
    repository = folder.parent / "repository"
    export_version(folder, repository, 1)
    set_routing(repository, FAMILY, Routing(1))
    engine = LocalEngine(repository)
    image = np.random.default_rng(0).integers(0, 4000, (64, 64, 1)).astype(np.uint16)
    reference = asyncio.run(Reference.of(image, engine, engine.find(FAMILY)))
    reference.write(folder / REFERENCE_FILE)
    return folder


@pytest.fixture(scope="session")
def registered(complete: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry that tests copy: MLflow makes one in seconds."""
    folder = tmp_path_factory.mktemp("site")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    site = Site(folder, Registry(uri), MlflowClient(uri, uri))
    for _ in range(3):
        site.register(complete)
    return folder


@pytest.fixture
def site(registered: Path, tmp_path: Path) -> Site:
    uri = f"sqlite:///{shutil.copy(registered / 'mlflow.db', tmp_path)}"
    return Site(tmp_path, Registry(uri), MlflowClient(uri, uri))
