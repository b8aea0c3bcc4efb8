"""`nuclei gate`."""

from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import InvalidOption, ModelNotFound, VersionRefused
from serving.promotion.state import read_state
from serving.registry import Registry
from tests.serving.promotion.made_models import MODEL, discs, register, write_artifacts


def gate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["gate", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry with a good version, and one whose nuclei are too large."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    register(uri, write_artifacts(folder / "good"))
    register(uri, write_artifacts(folder / "worse", reach_px=2))
    register(uri, folder / "good", "nuclei-mylab", parent="nuclei-unet:9")
    return uri


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "wells"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for seed in range(4):
        image = discs(f"well-{seed}", seed=seed)
        cv2.imwrite(str(folder / "images" / f"{image.id}.png"), image.pixels)
        cv2.imwrite(str(folder / "masks" / f"{image.id}.png"), image.labels.astype("uint16"))
    return folder


@pytest.mark.triton
@pytest.mark.slow
def test_a_version_is_judged_and_the_next_is_compared_with_it(uri: str, data: Path) -> None:
    first = gate(1, "--data", data, "--tracking-uri", uri)
    assert first.exit_code == 0, first.output
    assert "has no champion yet" in first.output
    registry = Registry(uri)
    registry.set_alias(MODEL, "champion", 1)
    second = gate(2, "--model", "unet", "--data", data, "--tracking-uri", uri)
    assert isinstance(second.exception, VersionRefused)
    assert second.exception.exit_code == 11
    assert str(second.exception).startswith("nuclei-unet 2 is refused: accuracy: overall, 4 images")
    state = read_state(registry, MODEL)
    verdicts = [state.find(version).gates for version in (1, 2)]
    assert [gates and gates.verdict for gates in verdicts] == ["passed", "refused"]
    assert {gates and gates.evaluation_set.split("@")[0] for gates in verdicts} == {"wells"}


@pytest.mark.parametrize("text", ["2", "-1", "histology", "histology=x", "nan"])
def test_floors_that_are_none_are_refused(text: str, uri: str, data: Path) -> None:
    found = gate(1, "--data", data, "--tracking-uri", uri, "--floor", text)
    assert isinstance(found.exception, InvalidOption)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9,), "has no version 9"),
        ((1, "--against", "best"), "has no alias 'best'"),
        ((1, "--against", "7"), "has no version 7"),
        ((1, "--against", "unet:7"), "has no version 7"),
        ((1, "--against", "stardist:champion"), "stardist"),
        ((1, "--model", "linknet"), "linknet"),
        # The first version of a model is compared with its parent.
        ((1, "--model", "mylab"), "'nuclei-unet' has no version 9"),
    ],
)
def test_what_is_not_registered_is_named(
    arguments: tuple[object, ...], message: str, uri: str, data: Path
) -> None:
    found = gate(*arguments, "--data", data, "--tracking-uri", uri)
    assert isinstance(found.exception, ModelNotFound)
    assert message in str(found.exception)
