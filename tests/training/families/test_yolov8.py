import asyncio
import sys
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn
from typer.testing import CliRunner

from nuclei.cli.app import app
from nuclei.errors import InvalidOption, MissingPrerequisite
from nuclei.evaluation.metrics import Overlap
from nuclei.imaging.images import frame_from_array
from nuclei.inference.method import MASKS
from nuclei.inference.parity import differences
from nuclei.inference.pipeline import segment
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.families.yolov8 import Detector, YoloV8, build_detector
from training.schedule import Schedule

RECIPE = YoloV8(
    data=(Path("unused"),),
    size="n",
    zoom=1,
    schedule=Schedule(steps=2, batch_size=2, crop_px=64, validate_every=1, workers=0),
)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics.nn.tasks", None)
    with pytest.raises(MissingPrerequisite, match="make yolov8-env"):
        build_detector("n", 1)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(InvalidOption, match="expected one of n, s, m, l, x"):
        build_detector("xxl", 1)


class TestWithUltralytics:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _installed(cls) -> None:
        pytest.importorskip("ultralytics")

    @pytest.fixture(scope="class")
    @classmethod
    def scene(cls) -> tuple[Tensor, np.ndarray]:
        """16 bright discs, the same in every view: image [1, 3, 128, 128], labels [128, 128]."""
        labels = np.zeros((128, 128), np.uint16)
        y, x = np.mgrid[:128, :128]
        for number in range(16):
            centre = np.divmod(number, 4)
            labels[np.hypot(y - 15.5 - 32 * centre[0], x - 15.5 - 32 * centre[1]) < 9] = number + 1
        image = torch.from_numpy((labels > 0).astype(np.float32))
        return image.expand(1, 3, -1, -1), labels

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, scene: tuple[Tensor, np.ndarray]) -> Detector:
        """A detector that has memorised one scene."""
        torch.manual_seed(0)
        detector = RECIPE.build()
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.5
        optimizer = torch.optim.AdamW(detector.parameters(), 2e-3)
        image, labels = scene
        targets = [RECIPE.targets(labels)]
        for _ in range(25):
            loss = RECIPE.loss_of(detector, image, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return detector.eval()

    def test_it_learns(self, trained: Detector, scene: tuple[Tensor, np.ndarray]) -> None:
        image, labels = scene
        frame = frame_from_array((image[0, 0].numpy() * 255).astype(np.uint8))
        engine = RECIPE.engine(trained, RECIPE.contract(), "fp32")
        for tta in (False, True):
            found = asyncio.run(segment(frame, engine, engine.served, tta=tta))
            assert len(found.nuclei) == 16
            assert Overlap.of(labels, found.labels).dsb_score() > 0.5

    def test_grey_is_colour(self, trained: Detector, scene: tuple[Tensor, np.ndarray]) -> None:
        with torch.inference_mode():
            grey, colour = trained(scene[0][:, :1]), trained(scene[0])
        assert all(torch.equal(a, b) for a, b in zip(grey, colour, strict=True))

    def test_an_empty_image_has_no_nuclei(self, trained: Detector) -> None:
        with torch.inference_mode():
            boxes, scores, masks = trained(torch.zeros(1, 1, 64, 96))
        assert [*boxes.shape] == [0, 4]
        assert [*scores.shape] == [0]
        assert [*masks.shape] == [0, 28, 28]
        assert masks.dtype == torch.uint8

    @pytest.mark.parametrize("zoom", [1, 2])
    def test_a_crop_without_nuclei_can_be_trained_on(self, zoom: int) -> None:
        detector = build_detector("n", zoom)
        nothing = RECIPE.targets(np.zeros((64, 64), np.uint16))
        loss = RECIPE.loss_of(detector, torch.rand(2, 3, 64, 64), [nothing, nothing])
        loss.backward()
        assert torch.isfinite(loss)

    def test_it_decodes_as_ultralytics_does(
        self, trained: Detector, scene: tuple[Tensor, np.ndarray]
    ) -> None:
        from ultralytics.utils.nms import non_max_suppression
        from ultralytics.utils.ops import process_mask

        with torch.inference_mode():
            boxes, scores, masks = trained(scene[0])
            trained.network.eval()
            (decoded, prototypes), _ = trained.network(scene[0])
            trained.eval()
            (theirs,) = non_max_suppression(decoded, 0.05, 0.6, nc=1)
        assert torch.allclose(boxes[:, [1, 0, 3, 2]], theirs[:, :4], atol=1e-3)
        assert torch.allclose(scores, theirs[:, 4], atol=1e-5)
        drawn = process_mask(prototypes[0], theirs[:, 6:], theirs[:, :4], (128, 128), upsample=True)
        for box, ours, mask in zip(boxes, masks, drawn > 0, strict=True):
            y, x = ((box[:2] + box[2:]) / 2).long()
            assert mask[y, x] == (ours[14, 14] > 127)
            area = float((ours > 127).float().mean() * (box[2:] - box[:2]).prod())
            assert area == pytest.approx(float(mask.sum()), rel=0.1)

    @pytest.fixture(scope="class")
    @classmethod
    def exported(cls, trained: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("yolov8")
        parity = RECIPE.export(trained, folder)
        assert parity["network/UNMATCHED"] == 0
        return folder

    @pytest.mark.parametrize(("channels", "rows", "columns"), [(1, 1, 1), (3, 1, 2), (1, 3, 2)])
    def test_onnx_answers_as_torch(
        self,
        trained: Detector,
        exported: Path,
        scene: tuple[Tensor, np.ndarray],
        channels: int,
        rows: int,
        columns: int,
    ) -> None:
        image = scene[0][:, :channels].repeat(1, 1, rows, columns)
        names = MASKS.outputs
        session = onnxruntime.InferenceSession(exported / "network.onnx")
        found = dict(zip(names, session.run(names, {"IMAGE": image.numpy()}), strict=True))
        with torch.inference_mode():
            expected = dict(zip(names, (out.numpy() for out in trained(image)), strict=True))
        assert len(found["SCORES"]) >= 16
        apart = differences(found, expected)
        assert apart["UNMATCHED"] == 0
        assert apart["BOXES"] < 0.01
        assert apart["MASKS"] <= 1

    def test_onnx_finds_nothing_in_an_empty_image(self, exported: Path) -> None:
        session = onnxruntime.InferenceSession(exported / "network.onnx")
        boxes, _, masks = session.run(None, {"IMAGE": np.zeros((1, 3, 32, 32), np.float32)})
        assert boxes.shape == (0, 4)
        assert masks.shape == (0, 28, 28)

    def test_a_version_carries_the_licence(self, samples: list[Sample], tmp_path: Path) -> None:
        write_dataset(samples, tmp_path / "data", "coco")
        tracking_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        options = {
            **{"size": "n", "zoom": 1, "steps": 2, "batch-size": 2, "crop": 64, "workers": 0},
            **{"validate-every": 1, "validation-fraction": 0.25, "device": "cpu"},
            **{"out": tmp_path / "run", "tracking-uri": tracking_uri},
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        command = ["train", "yolov8", str(tmp_path / "data"), *arguments]
        shown = CliRunner().invoke(app, command, catch_exceptions=False)
        assert "registered nuclei-yolov8 version 1" in shown.stdout
        mlflow.set_tracking_uri(tracking_uri)
        tags = MlflowClient().get_model_version("nuclei-yolov8", "1").tags
        assert tags["licence"] == "AGPL-3.0 AND LicenseRef-data-not-stated"
        assert tags["size"] == "n"
        recipe = YoloV8.read(tmp_path / "run")
        assert (recipe.size, recipe.zoom, recipe.schedule.steps) == ("n", 1, 2)
