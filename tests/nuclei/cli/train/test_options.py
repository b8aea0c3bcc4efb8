from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from nuclei.cli.train import app
from nuclei.errors import InvalidData, InvalidOption, MissingPrerequisite
from training.families.unet import UNet
from training.schedule import Schedule


def unet(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["unet", *map(str, arguments)])


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a training that was begun on a GPU; its images are gone."""
    asked = UNet(data=(tmp_path / "gone",), architecture="cnn", schedule=Schedule(device="cuda"))
    (tmp_path / "options.json").write_text(asked.to_json())
    return tmp_path


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_run_of_a_gpu_goes_on_where_it_is_told(begun: Path) -> None:
    assert isinstance(unet("--resume", begun).exception, MissingPrerequisite)
    assert isinstance(unet("--resume", begun, "--device", "cpu").exception, InvalidData)


def test_a_finished_run_is_not_resumed(begun: Path) -> None:
    (begun / "model_version.json").write_text('{"name": "nuclei-unet", "version": "7"}')
    failed = unet("--resume", begun)
    assert isinstance(failed.exception, InvalidOption)
    assert "is finished: it made nuclei-unet version 7" in str(failed.exception)


def test_a_run_without_images_leaves_no_folder(tmp_path: Path) -> None:
    failed = unet(tmp_path / "gone", "--architecture", "cnn", "--out", tmp_path / "run")
    assert isinstance(failed.exception, InvalidData)
    assert not list(tmp_path.iterdir())


def test_categories_belong_to_the_run(begun: Path) -> None:
    asked = replace(UNet.read(begun), categories=("nucleus", "mitosis"))
    (begun / "options.json").write_text(asked.to_json())
    assert UNet.read(begun) == asked


def test_the_same_command_begins_a_run_and_continues_it(tmp_path: Path) -> None:
    images, folder = tmp_path / "gone", tmp_path / "run"
    command = (images, "--architecture", "cnn", "--device", "cpu", "--resume", folder)
    begins = unet(*command)
    assert isinstance(begins.exception, InvalidData)
    assert not folder.exists()
    asked = UNet(data=(images,), architecture="cnn", schedule=Schedule(device="cpu"))
    folder.mkdir()
    (folder / "options.json").write_text(asked.to_json())
    continues = unet(*command)
    assert "gone does not exist" in str(continues.exception)
    other = unet(*command, "--steps", 7)
    assert isinstance(other.exception, InvalidOption)
    assert "holds a training with steps 9000, not 7" in str(other.exception)


def test_a_new_run_does_not_write_into_the_folder_of_another(begun: Path) -> None:
    failed = unet(begun / "images", "--out", begun)
    assert isinstance(failed.exception, InvalidOption)
    assert "holds a training already" in str(failed.exception)
    assert isinstance(unet("--out", begun, "--resume", begun).exception, InvalidOption)


def test_all_models_are_not_trained_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    failed = CliRunner().invoke(app, ["all", str(tmp_path)])
    assert isinstance(failed.exception, InvalidOption)
    assert "without torchrun" in str(failed.exception)
