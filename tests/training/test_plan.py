import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from nuclei.cli.train import app
from nuclei.errors import InvalidData, InvalidOption, MissingPrerequisite
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.optimisation import finished_progress
from training.plan import Budget, budget_of, keep_budget, plan

FAMILIES = {"unet", "linknet", "unet_linknet", "stardist", "mask_rcnn", "consensus"}


@pytest.mark.parametrize("budget", Budget)
def test_every_family_is_planned_and_ensembles_come_last(tmp_path: Path, budget: Budget) -> None:
    names = [one.name for one in plan((tmp_path,), tmp_path, budget, "cpu")]
    assert set(names) >= FAMILIES
    assert len(set(names)) == len(names)
    assert names.index("unet_linknet") > max(names.index("unet"), names.index("linknet"))
    assert names.index("consensus") > max(names.index("unet"), names.index("mask_rcnn"))


def test_a_gpu_trains_longer(tmp_path: Path) -> None:
    cpu, gpu = (next(iter(plan((tmp_path,), tmp_path, one, "cpu"))).make() for one in Budget)
    crops = [one.schedule.steps * one.schedule.batch_size for one in (cpu, gpu)]
    assert crops[1] > crops[0]


def test_an_ensemble_needs_its_members(tmp_path: Path) -> None:
    planned = {one.name: one for one in plan((tmp_path,), tmp_path, Budget.CPU, "cpu")}
    with pytest.raises(InvalidData, match="no folder of a training of unet"):
        planned["unet_linknet"].make()


def test_a_folder_keeps_the_budget_it_was_begun_with(tmp_path: Path) -> None:
    assert budget_of(tmp_path / "runs", "cuda") is Budget.GPU
    assert not (tmp_path / "runs").exists()
    keep_budget(tmp_path / "runs", Budget.GPU)
    assert budget_of(tmp_path / "runs", "cpu") is Budget.GPU
    assert budget_of(tmp_path / "others", "cpu") is Budget.CPU


def test_a_finished_training_is_not_repeated(samples: list[Sample], tmp_path: Path) -> None:
    write_dataset(samples, tmp_path / "data", "labels")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    runs = tmp_path / "runs"
    asked = [
        *("all", str(tmp_path / "data"), "--out", str(runs), "--only", "cnn"),
        *("--device", "cpu", "--tracking-uri", uri),
    ]
    trained = CliRunner().invoke(app, [*asked, "--minutes", "0.01"], catch_exceptions=False)
    assert "next: nuclei train all" in trained.output
    steps = finished_progress(runs / "cnn").step
    assert json.loads((runs / "cnn" / "options.json").read_text())["schedule"]["minutes"] == 0.01
    for _ in range(2):
        licensed = [*asked, "--data-licence", "CC0-1.0"]
        result = CliRunner().invoke(app, licensed, catch_exceptions=False)
        assert "nuclei-cnn" in result.output
    (version,) = MlflowClient(uri).search_model_versions("name = 'nuclei-cnn'")
    assert version.tags["licence"].endswith(" AND CC0-1.0")
    loss = MlflowClient(uri).get_metric_history(version.run_id, "train_loss")
    assert [point.step for point in loss] == [steps]


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    asked = ["all", str(tmp_path), "--out", str(tmp_path / "runs"), "--only", "nosuch"]
    result = CliRunner().invoke(app, asked)
    assert "expected one of unet, linknet" in str(result.exception)


def test_minutes_are_for_networks_that_learn(tmp_path: Path) -> None:
    asked = ["all", str(tmp_path), "--only", "consensus", "--minutes", "1"]
    result = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "runs")])
    assert "these only combine trained ones" in str(result.exception)


@pytest.mark.parametrize("wrong", [("nowhere",), (".", "--device", "cuda"), (".", "--only", "x")])
def test_what_cannot_be_trained_leaves_nothing_behind(
    wrong: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["all", *wrong])
    assert isinstance(result.exception, InvalidData | InvalidOption | MissingPrerequisite)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidOption, match="cannot be written"):
        keep_budget(tmp_path / "file" / "runs", Budget.CPU)
