from dataclasses import replace
from pathlib import Path

import mlflow
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from nuclei.cli.app import app
from nuclei.inference.contract import Contract, Method
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.families.detectors import Detector
from training.families.mask_rcnn import MaskRCNN
from training.optimisation import fit
from training.schedule import MASK_RCNN, Augmentation

QUICK = replace(
    MASK_RCNN,
    steps=20,
    batch_size=2,
    crop_px=64,
    learning_rate=0.05,
    warmup_steps=5,
    validate_every=10,
    workers=0,
    precision="fp32",
    augmentation=Augmentation(elastic_px=0, scale_spread=0),
)


def recipe(folder: Path) -> MaskRCNN:
    return MaskRCNN(data=folder, backbone="mobilenet_v3", schedule=QUICK)


def test_serving_learns_how_nuclei_come_of_it(tmp_path: Path) -> None:
    contract = recipe(tmp_path).contract()
    assert (contract.family, contract.method) == ("mask_rcnn", Method.MASKS)
    assert Contract.from_json(contract.to_json()) == contract


def test_options_survive_their_file(tmp_path: Path) -> None:
    asked = replace(recipe(tmp_path), pixel_size_um=0.5)
    (tmp_path / "options.json").write_text(asked.to_json())
    assert MaskRCNN.read(tmp_path) == asked


def test_the_loss_falls(samples: list[Sample], tmp_path: Path) -> None:
    def validate(network: torch.nn.Module) -> dict[str, float]:
        assert isinstance(network, Detector)
        assert not network.training
        return {"val_dsb_score": 0.0}

    network, progress = fit(
        recipe(tmp_path), samples, QUICK, tmp_path / "c.pt", validate, lambda *_: None
    )
    losses = [point["train_loss"] for point in progress.history]
    assert losses[-1] < 0.95 * losses[0]
    assert not network.training


def test_the_command_registers_a_version(samples: list[Sample], tmp_path: Path) -> None:
    write_dataset(samples[:4], tmp_path / "data", "coco")
    tracking_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    options = {
        **{"backbone": "mobilenet_v3", "steps": 1, "batch-size": 2, "crop": 64, "workers": 0},
        **{"validate-every": 1, "validation-fraction": 0.25, "device": "cpu"},
        **{"out": tmp_path / "run", "tracking-uri": tracking_uri},
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = ["train", "mask_rcnn", str(tmp_path / "data"), *arguments]
    shown = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "registered nuclei-mask-rcnn version 1" in shown.stdout
    mlflow.set_tracking_uri(tracking_uri)
    assert MlflowClient().get_model_version("nuclei-mask-rcnn", "1").tags["backbone"] == (
        "mobilenet_v3"
    )
    stored = MaskRCNN.read(tmp_path / "run")
    assert (stored.backbone, stored.schedule.optimizer, stored.schedule.steps) == (
        *("mobilenet_v3", "sgd", 1),
    )
