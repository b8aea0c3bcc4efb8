from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor
from typer.testing import CliRunner

from nuclei.cli.app import app
from nuclei.errors import InvalidOption
from nuclei.inference.contract import Contract
from nuclei.inference.method import MASKS
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.families.mask_rcnn import (
    ARCHITECTURES,
    MAX_DETECTIONS,
    Detector,
    MaskRCNN,
    build_detector,
)
from training.job import n_parameters
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
    return MaskRCNN(data=(folder,), backbone="mobilenet_v3", schedule=QUICK)


def test_serving_learns_how_nuclei_come_of_it(tmp_path: Path) -> None:
    contract = recipe(tmp_path).contract()
    assert (contract.family, contract.method) == ("mask_rcnn", MASKS)
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


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return build_detector("mobilenet_v3").eval()


def targets(*boxes: tuple[int, int, int, int], side: int = 64) -> dict[str, Tensor]:
    """Nuclei that fill their boxes (x0, y0, x1, y1)."""
    masks = torch.zeros(len(boxes), side, side, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    places = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": places, "labels": torch.ones(len(boxes), dtype=torch.int64), "masks": masks}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_build_and_learn(architecture: str) -> None:
    network = build_detector(architecture).train()
    losses = network.losses(
        torch.rand(2, 3, 64, 64), [targets((4, 8, 20, 30), (40, 40, 52, 60)), targets()]
    )
    assert len(losses) == 5
    torch.stack(list(losses.values())).sum().backward()
    still = [name for name, value in network.named_parameters() if value.grad is None]
    assert not still
    assert all(value.isfinite().all() for value in losses.values())


def test_backbones_differ_in_size() -> None:
    sizes = [n_parameters(build_detector(name)) for name in ARCHITECTURES]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 40_000_000
    assert sizes[-1] < 5_000_000


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 64, 96), (1, 1, 160, 32)])
def test_boxes_lie_in_an_image_of_any_size(detector: Detector, shape: tuple[int, ...]) -> None:
    with torch.inference_mode():
        boxes, scores, masks = detector(torch.rand(shape))
    assert 0 < len(scores) <= MAX_DETECTIONS
    assert (scores[:-1] >= scores[1:]).all()
    assert boxes.shape == (len(scores), 4)
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert boxes.min() >= 0
    assert (boxes[:, 2:].amax(dim=0) <= torch.tensor(shape[2:])).all()
    assert masks.shape == (len(scores), 28, 28)
    assert masks.dtype == torch.uint8


def test_grey_is_three_equal_channels(detector: Detector) -> None:
    grey = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        for one, three in zip(detector(grey), detector(grey.expand(-1, 3, -1, -1)), strict=True):
            assert torch.equal(one, three)


def test_coordinates_are_exact_in_mixed_precision(detector: Detector) -> None:
    image = torch.rand(1, 3, 64, 512)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        boxes, scores, _ = detector(image)
    assert boxes.dtype == scores.dtype == torch.float32
    # Rounded to bf16, coordinates beyond 256 would be even.
    far = boxes[:, 1][boxes[:, 1] > 256]
    assert (far % 2 > 0).any()


@pytest.mark.parametrize("architecture", ["resnet17", ""])
def test_an_unknown_architecture_is_refused(architecture: str) -> None:
    with pytest.raises(InvalidOption, match="resnet50_fpn_v2, resnet18, mobilenet_v3"):
        build_detector(architecture)
