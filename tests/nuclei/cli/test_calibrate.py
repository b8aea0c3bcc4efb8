import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import InvalidData, ModelNotFound
from nuclei.inference.onnx_engine import LocalEngine
from tests.shipped import GRAPH, SHIPPED, VERSION
from training.quality import MIN_FRAMES


def calibrate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)], env={"COLUMNS": "100"})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return shutil.copytree(SHIPPED, tmp_path / "models", copy_function=_link)


def _link(source: str, target: str) -> None:
    """A configuration is replaced, never written into, so files may be shared."""
    Path(target).hardlink_to(source)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """As many small frames of discs as a group needs, and three in colour, which are too few."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for number in range(MIN_FRAMES + 3):
        labels = np.zeros((64, 64), np.uint16)
        for label in range(1, 4):
            centre = rng.integers(8, 56, 2).tolist()
            cv2.circle(labels, centre, int(rng.integers(5, 10)), label, -1)
        noisy = np.where(labels > 0, 150, 20) + rng.normal(0, 3, labels.shape)
        pixels = np.asarray(cv2.GaussianBlur(noisy.clip(0, 255).astype(np.uint8), (0, 0), 1))
        if number >= MIN_FRAMES:
            stained = labels[..., None] > 0
            pixels = np.where(stained, (150, 60, 120), (240, 210, 230)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{number}.png"), pixels)
        cv2.imwrite(str(tmp_path / "data" / "masks" / f"{number}.png"), labels)
    return tmp_path / "data"


def test_a_served_model_is_calibrated_with_images_of_a_folder(
    repository: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.quality.TTA_FRAMES", 1)
    monkeypatch.setattr("training.quality.COPIES", 1)
    shipped = (SHIPPED / GRAPH / "config.pbtxt").read_bytes()
    result = calibrate(data, "--repository", repository)
    assert result.exit_code == 0, result.output
    assert f"unet {VERSION}: {MIN_FRAMES} grey frames" in result.stdout
    assert "4.8% of grey frames like these get a warning" in result.stdout
    assert f"changed {GRAPH} and {GRAPH}_tta" in result.stderr
    quality = LocalEngine(repository).find("unet").contract.quality
    assert list(quality.groups) == ["grey"]
    assert quality.groups["grey"].frames == MIN_FRAMES
    assert (SHIPPED / GRAPH / "config.pbtxt").read_bytes() == shipped


def test_too_few_images_are_refused_before_any_is_segmented(repository: Path, data: Path) -> None:
    result = calibrate(data, "--repository", repository, "--images", 5)
    assert isinstance(result.exception, InvalidData)
    assert "5 images are too few to calibrate with; expected 20 of grey or of colour" in str(
        result.exception
    )


def test_a_model_that_is_not_there_is_named(repository: Path, data: Path) -> None:
    result = calibrate(data, "--repository", repository, "--model", "other")
    assert isinstance(result.exception, ModelNotFound)


def test_a_folder_without_images_is_refused(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = calibrate(tmp_path / "empty", "--repository", repository)
    assert isinstance(result.exception, InvalidData)
