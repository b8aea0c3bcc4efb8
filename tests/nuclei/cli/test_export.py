"""`nuclei export` and `nuclei models` on a real registry, a real repository and a real Triton."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import (
    EngineUnavailable,
    InvalidOption,
    ModelNotFound,
    NucleiError,
    RegistryUnavailable,
)
from nuclei.process.ports import LOOPBACK, free_ports
from serving.repository.checks import check_repository

MODEL = "nuclei-unet"


@pytest.fixture(scope="module")
def uri(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry with two versions; the first is the champion."""
    folder = tmp_path_factory.mktemp("registry")
    found = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(found, found)
    experiment = client.create_experiment("nuclei", (folder / "files").as_uri())
    client.create_registered_model(MODEL)
    for score in ("0.51", "0.62"):
        run = client.create_run(experiment)
        client.log_artifacts(run.info.run_id, str(artifacts), "model")
        source = f"runs:/{run.info.run_id}/model"
        client.create_model_version(MODEL, source, run.info.run_id, tags={"dsb_score": score})
    client.set_registered_model_alias(MODEL, "champion", "1")
    return found


def nuclei(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "120"})


def error(*arguments: object) -> NucleiError:
    raised = nuclei(*arguments).exception
    assert isinstance(raised, NucleiError), raised
    return raised


def test_exports_the_newest_version_and_prints_the_parity(uri: str, tmp_path: Path) -> None:
    result = nuclei("export", "--tracking-uri", uri, "--repository", tmp_path / "models")
    assert result.exit_code == 0, result.output
    check_repository(tmp_path / "models")
    assert (tmp_path / "models" / "unet_network.2" / "2" / "model.onnx").is_file()
    _, _, parity = result.output.partition("Triton compared")
    rows = [line.strip("│ ").split() for line in parity.splitlines() if "│" in line]
    compared = {row[0]: row for row in rows if len(row) == 5}
    assert set(compared) == {"unet.2", "unet.2_tta"}
    for row in compared.values():
        assert int(row[4]) <= 1


def test_exports_the_version_of_an_alias_or_a_number(uri: str, tmp_path: Path) -> None:
    to = ("--repository", tmp_path / "models", "--no-check", "--tracking-uri", uri)
    assert nuclei("export", "--alias", "champion", *to).exit_code == 0
    assert nuclei("export", "--version", 2, *to).exit_code == 0
    versions = {folder.name for folder in (tmp_path / "models" / "unet").iterdir()}
    assert versions == {"1", "2", "config.pbtxt"}


def test_exports_a_folder(artifacts: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    given = ("export", "--from-folder", artifacts, "--repository", repository, "--no-check")
    assert isinstance(error(*given), InvalidOption)
    assert nuclei(*given, "--version", 4).exit_code == 0
    assert (repository / "unet" / "4").is_dir()
    assert isinstance(error(*given, "--version", 4), InvalidOption)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (("--version", 9), ModelNotFound),
        (("--alias", "challenger"), ModelNotFound),
        (("--model", "nuclei-unknown"), ModelNotFound),
        (("--version", 1, "--alias", "champion"), InvalidOption),
        (("--cpu", "abacus"), InvalidOption),
    ],
)
def test_what_cannot_be_exported_writes_nothing(
    uri: str, tmp_path: Path, options: tuple[object, ...], kind: type[NucleiError]
) -> None:
    repository = tmp_path / "models"
    raised = error("export", "--tracking-uri", uri, "--repository", repository, *options)
    assert isinstance(raised, kind)
    assert not repository.exists()


def test_a_registry_that_does_not_answer_writes_nothing(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    (port,) = free_ports(1)
    to = ("--repository", repository, "--tracking-uri", f"http://{LOOPBACK}:{port}")
    assert isinstance(error("export", *to), RegistryUnavailable)
    assert isinstance(error("models", *to), RegistryUnavailable)
    assert not repository.exists()


def test_models_lists_the_registry_and_the_repository(
    uri: str, artifacts: Path, tmp_path: Path
) -> None:
    to = ("--repository", tmp_path / "models", "--tracking-uri", uri)
    assert nuclei("export", "--version", 2, "--no-check", *to).exit_code == 0
    shown = nuclei("models", *to)
    assert shown.exit_code == 0, shown.output
    for word in ("nuclei-unet 1", "nuclei-unet 2", "champion", "dsb_score 0.62"):
        assert word in shown.output


def test_models_without_anything_is_empty(tmp_path: Path) -> None:
    database = tmp_path / "none.db"
    shown = nuclei("models", "--tracking-uri", f"sqlite:///{database}", "--repository", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert not database.exists()


def test_models_says_when_no_gateway_answers(uri: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    asked = ("--address", f"{LOOPBACK}:{port}", "--repository", tmp_path, "--tracking-uri", uri)
    assert isinstance(error("models", *asked), EngineUnavailable)
