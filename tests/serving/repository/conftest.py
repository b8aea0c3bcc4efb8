"""A repository with one exported version."""

import shutil
from pathlib import Path

import pytest

from nuclei.inference.routing import Routing
from serving.repository.export import export_version, set_routing


@pytest.fixture(scope="session")
def exported(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("exported") / "models"
    export_version(artifacts, repository, 3)
    set_routing(repository, "unet", Routing(3))
    return repository


@pytest.fixture
def repository(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "models")
