import json
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.families.unet import UNet
from training.job import TrainedModel, train
from training.schedule import Schedule

SCHEDULE = Schedule(steps=4, batch_size=2, crop_px=64, validate_every=2, workers=0)
ENCODER = "tu-regnetx_002"


def recipe(data: Path) -> UNet:
    return UNet(data=data, encoder=ENCODER, validation_fraction=0.25, schedule=SCHEDULE)


def written(folder: Path, samples: list[Sample]) -> Path:
    write_dataset(samples, folder, "labels")
    return folder


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def trained(
    samples: list[Sample], tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> TrainedModel:
    home = tmp_path_factory.mktemp("training")
    return train(recipe(written(home / "data", samples)), home / "run", tracking_uri)


def test_a_model_version_carries_all_that_serving_needs(
    trained: TrainedModel, tracking_uri: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(tracking_uri)
    version = MlflowClient().get_model_version("nuclei-unet", trained.version.version)
    assert version.tags["encoder"] == ENCODER
    folder = Path(
        mlflow.artifacts.download_artifacts(
            f"models:/nuclei-unet/{version.version}", dst_path=str(tmp_path)
        )
    )
    assert {path.name for path in folder.iterdir()} >= {
        *("contract.json", "preprocess.onnx", "tta.onnx"),
        *("network.onnx", "merge.onnx"),
    }
    assert Contract.read(folder / "contract.json") == trained.contract
    assert trained.contract.validation["dsb_score"] == pytest.approx(
        trained.evaluation.overall()["dsb_score"]
    )
    assert len(trained.contract.held_out) == 3
    assert trained.parity["preprocess"] < 1e-4
    assert max(trained.parity.values()) <= 1  # maps are bytes, which round either way
    assert trained.contract.training["parameters"] > 1e5
    assert trained.contract.training["minutes"] > 0
    assert trained.contract.validation["coco_mask_ap"] == trained.evaluation.coco["mask_ap"]


def test_the_mlflow_run_is_complete(trained: TrainedModel, tracking_uri: str) -> None:
    mlflow.set_tracking_uri(tracking_uri)
    client = MlflowClient()
    run = client.get_run(trained.version.run_id)
    assert run.data.params["encoder"] == ENCODER
    assert run.data.params["loss"] == "bce+dice"
    assert len(run.data.tags["data_fingerprint"]) == 64
    assert json.loads(run.data.tags["data_validation"])["histology"][0] == 1
    assert run.data.tags["git_commit"]
    assert {"train_loss", "val_dsb_score", "final/tta/dsb_score"} <= set(run.data.metrics)
    assert len(client.get_metric_history(run.info.run_id, "val_dsb_score")) == 2
    pictures = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert pictures == {
        *("learning_curves.png", "comparisons.png"),
        *("scores_per_image.png", "scores_per_threshold.png"),
    }
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files >= {"environment.txt", "evaluation.json", "report.html"}


def test_a_killed_training_goes_on_in_its_mlflow_run(
    samples: list[Sample], tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(recipe(written(tmp_path / "data", samples)), architecture="cnn")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("training.job._tune", killed)
        with pytest.raises(KeyboardInterrupt):
            train(asked, tmp_path / "run", tracking_uri)
    run_id = (tmp_path / "run" / "mlflow_run_id").read_text()
    resumed = train(UNet.read(tmp_path / "run"), tmp_path / "run", tracking_uri)
    assert resumed.version.run_id == run_id


def test_a_training_from_another_machine_gets_a_run_with_all_of_its_curve(
    samples: list[Sample], tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(recipe(written(tmp_path / "data", samples)), architecture="cnn")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("training.job._tune", killed)
        with pytest.raises(KeyboardInterrupt):
            train(asked, tmp_path / "run", f"sqlite:///{tmp_path / 'other.db'}")
    there = (tmp_path / "run" / "mlflow_run_id").read_text()
    run_id = train(asked, tmp_path / "run", tracking_uri).version.run_id
    assert run_id != there
    history = MlflowClient(tracking_uri).get_metric_history(run_id, "val_dsb_score")
    assert [point.step for point in history] == [2, 4]


def test_too_few_images_are_refused(
    samples: list[Sample], tracking_uri: str, tmp_path: Path
) -> None:
    data = written(tmp_path / "data", samples[:1])
    with pytest.raises(InvalidData, match="at least one each"):
        train(recipe(data), tmp_path / "run", tracking_uri)


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "{}", '{"data": "x", "family": "unet", "schedule": 3}'),
        UNet(data=Path("x")).to_json().replace('"unet"', '"mask_rcnn"'),
    ],
)
def test_a_folder_of_no_training_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "options.json").write_text(text)
    with pytest.raises(InvalidData, match="no folder of a training of unet"):
        UNet.read(tmp_path)


def test_options_survive_their_file(tmp_path: Path) -> None:
    asked = replace(recipe(tmp_path), pixel_size_um=0.5, loss="dice")
    (tmp_path / "options.json").write_text(asked.to_json())
    assert UNet.read(tmp_path) == asked
