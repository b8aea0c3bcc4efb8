"""Model versions of an MLflow registry."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from nuclei.errors import InvalidData, InvalidOption, ModelNotFound, RegistryUnavailable
from nuclei.process.ports import LOOPBACK, free_ports
from serving.promotion.state import LIVE_S
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


def test_names_are_those_with_the_prefix_and_the_alias(registry: Registry) -> None:
    assert registry.names("nuclei-") == [MODEL]
    assert registry.names("nuclei-", "champion") == [MODEL]
    assert registry.names("nuclei-", "challenger") == []
    assert registry.names("other-") == []


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    monkeypatch.delenv(variable, raising=False)
    Registry("http://registry:5000")
    assert int(os.environ[variable]) < LIVE_S / 2, "twice, and the status is still live"
    monkeypatch.setenv(variable, "1")
    with socket.create_server((LOOPBACK, 0)) as silent:
        started = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            Registry(f"http://{LOOPBACK}:{silent.getsockname()[1]}").versions(MODEL)
    assert time.monotonic() - started < 15


def test_no_password_is_shown() -> None:
    (port,) = free_ports(1)
    registry = Registry(f"http://me:hidden@{LOOPBACK}:{port}")
    with pytest.raises(RegistryUnavailable) as raised:
        registry.versions(MODEL)
    assert "hidden" not in str(raised.value)
    assert f"http://***@{LOOPBACK}:{port}" in str(raised.value)


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


@pytest.fixture
def odd(tmp_path: Path) -> tuple[Registry, MlflowClient, str]:
    """A registry of its own with one run, whose artifacts are one file."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("nuclei", (tmp_path / "files").as_uri())
    client.create_registered_model(MODEL)
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, "{}", "model/contract.json")
    return Registry(uri), client, run_id


@pytest.mark.parametrize(
    "source",
    [
        "file:///etc",
        "/etc",
        "runs:/{run}/../../secret",
        "runs:/{run}/model/../../..",
        "runs:/{run}/%2e%2e/%2e%2e",
        "runs:/0123456789abcdef0123456789abcdef/model",
        "{home}/../../../secret",
        "{home}/",
        "{home}-elsewhere/model",
        "models:/nuclei-unet/1",
        "http://127.0.0.1:9/model",
    ],
)
def test_files_that_lie_elsewhere_than_the_run_are_not_fetched(
    odd: tuple[Registry, MlflowClient, str], source: str, tmp_path: Path
) -> None:
    registry, client, run_id = odd
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "contract.json").touch()
    client.create_model_version(MODEL, f"runs:/{run_id}/model", run_id)
    home = client.get_run(run_id).info.artifact_uri
    where = source.format(run=run_id, home=home)
    # As whoever has access to the database: MLflow itself refuses some.
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE model_versions SET source = ?, storage_location = ?", [where] * 2)
    (tmp_path / "down").mkdir()
    with pytest.raises(InvalidData, match="no folder of the run that made it"):
        registry.download(registry.find(MODEL), tmp_path / "down")
    assert list((tmp_path / "down").iterdir()) == []


@pytest.mark.parametrize("made", ["link", "folder", "name"])
def test_only_plain_files_are_fetched(
    odd: tuple[Registry, MlflowClient, str], made: str, tmp_path: Path
) -> None:
    registry, client, run_id = odd
    client.create_model_version(MODEL, f"runs:/{run_id}/model", run_id)
    (stored,) = tmp_path.glob("files/*/artifacts/model")
    match made:
        case "link":
            (stored / "network.onnx").symlink_to("/etc/hostname")
        case "folder":
            (stored / "more").mkdir()
            (stored / "more" / "network.onnx").touch()
        case "name":
            (stored / "a b").touch()
    (tmp_path / "down").mkdir()
    with pytest.raises(InvalidData, match="register"):
        registry.download(registry.find(MODEL), tmp_path / "down")
    assert list((tmp_path / "down").iterdir()) == []


def test_a_version_of_no_known_run_is_not_fetched(
    odd: tuple[Registry, MlflowClient, str], tmp_path: Path
) -> None:
    registry, client, run_id = odd
    client.create_model_version(MODEL, f"runs:/{run_id}/model", run_id)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE model_versions SET run_id = 'gone'")
    with pytest.raises(InvalidData, match="is not known"):
        registry.download(registry.find(MODEL), tmp_path)


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
