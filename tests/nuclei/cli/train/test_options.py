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
    asked = UNet(data=tmp_path / "gone", architecture="cnn", schedule=Schedule(device="cuda"))
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
