"""What tests of promotions need besides a filled registry."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.reference import write_references
from nuclei.inference.routing import Routing
from serving.registry import Registry
from serving.repository.export import export_version, set_routing
from tests.serving.promotion import servers
from tests.serving.promotion.registries import Filled
from tests.serving.promotion.site import FAMILY, Site


@pytest.fixture
def sql(filled: Filled) -> Callable[..., None]:
    """Writes into the database behind MLflow's back: `sql("UPDATE ...", value)`."""

    def execute(statement: str, *values: object) -> None:
        with sqlite3.connect(filled.registry.tracking_uri.removeprefix("sqlite:///")) as database:
            assert database.execute(statement, values).rowcount

    return execute


@pytest.fixture(scope="session")
def complete(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of a tiny U-Net with its references."""
    folder = shutil.copytree(artifacts, tmp_path_factory.mktemp("complete") / "artifacts")
    repository = folder.parent / "repository"
    export_version(folder, repository, 1)
    set_routing(repository, FAMILY, Routing(1))
    engine = LocalEngine(repository)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 4000, (64, 64, channels)).astype(np.uint16) for channels in (1, 3)]
    write_references(images, engine, engine.find(FAMILY), folder)
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


@pytest.fixture(scope="session")
def production_registry(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[servers.ProductionRegistry]:
    """MLflow's server on PostgreSQL and S3, empty."""
    with servers.production_registry(tmp_path_factory.mktemp("production")) as running:
        yield running
