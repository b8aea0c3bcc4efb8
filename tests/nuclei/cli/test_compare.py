import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import InvalidData, InvalidOption, ModelNotFound
from nuclei.inference.onnx_engine import LocalEngine

NAMES = ("a", "b", "c")


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "120"})


def truth(name: str) -> NDArray[np.uint16]:
    """Label image of three discs, a different one for each name."""
    labels = np.zeros((96, 96), np.uint16)
    for label, centre in enumerate([(20, 20), (60, 25), (40, 70)], start=1):
        cv2.circle(labels, centre, 8 + ord(name) % 5, label, -1)
    return labels


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name in NAMES:
        frame = np.where(truth(name) > 0, 180, 20).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{name}.png"), cv2.GaussianBlur(frame, (0, 0), 1))
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), truth(name))
    return folder


@pytest.fixture
def label_folders(tmp_path: Path) -> list[Path]:
    """The truth, and the truth without its last nucleus."""
    folders = [tmp_path / "all", tmp_path / "fewer"]
    for folder in folders:
        folder.mkdir()
        for name in NAMES:
            labels = truth(name)
            if folder.name == "fewer":
                labels[labels == 3] = 0
            cv2.imwrite(str(folder / f"{name}.png"), labels)
    return folders


def test_compares_label_images_of_any_program(
    dataset: Path, label_folders: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = compare(*label_folders, "--data", dataset, "--out", out)
    assert result.exit_code == 0, result.output
    numbers = json.loads((out / "comparison.json").read_text())
    all_found, fewer = (numbers["models"][folder.name] for folder in label_folders)
    assert all_found["overall"]["dsb_score"] == 1
    assert fewer["overall"]["missed"] == 3
    assert numbers["tests"][0]["difference"] == pytest.approx(1 / 3)
    assert "Where they differ most" in (out / "report.html").read_text()
    assert "0.667" in result.stdout


@pytest.mark.slow
def test_compares_a_model_with_and_without_views_and_a_folder(
    dataset: Path, label_folders: list[Path], repository: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("--data", dataset, "--repository", repository, "--tta", "--out", out)
    result = compare("unet", label_folders[0], *arguments)
    assert result.exit_code == 0, result.output
    models = json.loads((out / "comparison.json").read_text())["models"]
    plain, views, folder = models.values()
    assert list(models)[1] == f"{next(iter(models))} with TTA"
    assert min(plain["cost"]["memory_mb"], views["cost"]["ms_per_image"]) > 0
    assert plain["coco"]["mask_ap_0.50"] > 0.9
    assert (folder["cost"], folder["coco"]) == (None, {})


def test_what_is_no_model_and_no_folder_is_named(dataset: Path, repository: Path) -> None:
    result = compare("unet", "nothing", "--data", dataset, "--repository", repository)
    assert isinstance(result.exception, ModelNotFound)
    assert "nothing is neither a model" in str(result.exception)


@pytest.mark.slow
def test_only_images_that_no_model_was_trained_on(
    dataset: Path, label_folders: list[Path], repository: Path, tmp_path: Path
) -> None:
    name = LocalEngine(repository).find("unet").contract.held_out[0]
    for part in ("images", "masks"):
        (dataset / part / "c.png").rename(dataset / part / f"{name}.png")
    (label_folders[0] / "c.png").rename(label_folders[0] / f"{name}.png")
    out = tmp_path / "out"
    options = ("--data", dataset, "--held-out", "--repository", repository, "--out", out)
    assert compare("unet", label_folders[0], *options).exit_code == 0
    models = json.loads((out / "comparison.json").read_text())["models"]
    assert [image["name"] for image in models[label_folders[0].name]["images"]] == [name]


def test_label_images_alone_hold_nothing_out(dataset: Path, label_folders: list[Path]) -> None:
    result = compare(*label_folders, "--data", dataset, "--held-out")
    assert isinstance(result.exception, InvalidOption)
    assert "needs a model" in str(result.exception)


def test_the_same_twice_is_refused(dataset: Path, label_folders: list[Path]) -> None:
    result = compare(label_folders[0], label_folders[0], "--data", dataset)
    assert isinstance(result.exception, InvalidOption)
    assert "named twice" in str(result.exception)


def test_a_missing_label_image_is_named(dataset: Path, label_folders: list[Path]) -> None:
    (label_folders[1] / "b.png").unlink()
    result = compare(*label_folders, "--data", dataset)
    assert isinstance(result.exception, InvalidData)
    assert "no label image for b" in str(result.exception)


def test_folders_of_one_name_are_told_apart(
    dataset: Path, label_folders: list[Path], tmp_path: Path
) -> None:
    folders = [tmp_path / "x" / "labels", tmp_path / "y" / "labels", label_folders[1]]
    for folder in folders[:2]:
        shutil.copytree(label_folders[0], folder)
    out = tmp_path / "out"
    result = compare(*folders, "--data", dataset, "--out", out)
    assert result.exit_code == 0, result.output
    numbers = json.loads((out / "comparison.json").read_text())
    assert list(numbers["models"]) == ["x/labels", "y/labels", "fewer"]
    assert "x/labels against y/labels against fewer on data" in (out / "report.html").read_text()
