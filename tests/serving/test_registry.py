"""Model versions of an MLflow registry."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from nuclei.errors import InvalidData, InvalidOption, ModelNotFound, RegistryUnavailable
from serving.process.ports import LOOPBACK, free_ports
from serving.registry import Registry

MODEL = "nuclei-unet"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a registry with three versions; the second is the champion."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("nuclei", (folder / "files").as_uri())
    client.create_registered_model(MODEL)
    for number in (1, 2, 3):
        run = client.create_run(experiment)
        client.log_text(run.info.run_id, f'{{"family": "{number}"}}', "model/contract.json")
        client.create_model_version(
            MODEL,
            f"runs:/{run.info.run_id}/model",
            run.info.run_id,
            tags={"dsb_score": f"0.{number}"},
        )
    client.set_registered_model_alias(MODEL, "champion", "2")
    client.set_registered_model_alias(MODEL, "best", "2")
    return folder


@pytest.fixture
def registry(filled: Path) -> Registry:
    return Registry(f"sqlite:///{filled / 'mlflow.db'}")


def test_versions_are_newest_first(registry: Registry) -> None:
    found = registry.versions(MODEL)
    assert [entry.version for entry in found] == [3, 2, 1]
    assert [entry.aliases for entry in found] == [(), ("best", "champion"), ()]
    assert found[0].tags == {"dsb_score": "0.3"}
    assert registry.versions("unknown") == []


@pytest.mark.parametrize("name", ["", "../x", "a' OR name LIKE '%", "a\n", "\x1b[2J", "x" * 10**6])
def test_what_is_no_name_is_not_looked_up(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidOption, match="expected a name") as raised:
        registry.versions(name)
    assert len(str(raised.value)) < 300
    with pytest.raises(InvalidOption, match=r"^alias is"):
        registry.find(MODEL, alias=name)


def test_a_version_is_found_by_number_by_alias_or_as_the_newest(registry: Registry) -> None:
    assert registry.find(MODEL).version == 3
    assert registry.find(MODEL, version=1).version == 1
    assert registry.find(MODEL, alias="champion").version == 2


@pytest.mark.parametrize(
    ("model", "version", "alias", "message"),
    [
        ("unknown", None, None, "'unknown' has no version"),
        (MODEL, 9, None, "no version 9"),
        (MODEL, None, "challenger", "no alias 'challenger'"),
    ],
)
def test_what_is_not_there_is_named(
    registry: Registry, model: str, version: int | None, alias: str | None, message: str
) -> None:
    with pytest.raises(ModelNotFound, match=message):
        registry.find(model, version, alias)


def test_downloads_the_files_of_the_version(registry: Registry, tmp_path: Path) -> None:
    folder = registry.download(registry.find(MODEL, version=2), tmp_path)
    assert (folder / "contract.json").read_text() == '{"family": "2"}'


def test_lost_files_are_named(filled: Path, tmp_path: Path) -> None:
    copied = shutil.copy(filled / "mlflow.db", tmp_path / "mlflow.db")
    lost = tmp_path / "lost"
    shutil.move(filled / "files", lost)
    try:
        registry = Registry(f"sqlite:///{copied}")
        with pytest.raises(InvalidData, match="cannot be fetched"):
            registry.download(registry.find(MODEL, version=1), tmp_path)
    finally:
        shutil.move(lost, filled / "files")


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    database = tmp_path / "none.db"
    assert Registry(f"sqlite:///{database}").versions(MODEL) == []
    assert not database.exists()


def test_reading_a_registry_switches_the_telemetry_of_mlflow_off() -> None:
    code = "import os; from serving.registry import Registry; before = dict(os.environ)\n"
    code += "Registry('sqlite:///none.db').versions('x')\n"
    code += "print(before.get('MLFLOW_DISABLE_TELEMETRY'), os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["None", "true"]


def test_a_server_that_does_not_answer_is_named() -> None:
    (port,) = free_ports(1)
    with pytest.raises(RegistryUnavailable, match=str(port)):
        Registry(f"http://{LOOPBACK}:{port}").versions(MODEL)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RegistryUnavailable, match=r"mlflow\.db.*--tracking-uri"):
        Registry(f"sqlite:///{tmp_path / 'mlflow.db'}").versions(MODEL)
