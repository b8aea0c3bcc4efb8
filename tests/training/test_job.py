import io
import itertools
import json
import os
import shutil
import signal
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from nuclei.errors import InvalidData, InvalidOption, NucleiError, TrainingInterrupted
from nuclei.evaluation.unseen import Trained
from nuclei.inference.contract import Contract
from nuclei.inference.reference import read_references
from tests.training.conftest import MakeSample
from training.data.conversion import write_dataset
from training.data.dataset import Sample
from training.families.unet import UNet
from training.hardware import chosen_precision
from training.job import TrainedModel, split, train
from training.ranks import joined
from training.schedule import FINE_TUNING, Schedule

SCHEDULE = Schedule(steps=4, batch_size=2, crop_px=64, validate_every=2, workers=0)
ENCODER = "tu-regnetx_002"


class Stopped(UNet):
    """Tells its own process to stop, in the third step."""

    steps = itertools.count(1)

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        if next(self.steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss_of(network, images, targets)


def recipe(data: Path) -> UNet:
    return UNet(
        data=(data,),
        encoder=ENCODER,
        validation_fraction=0.25,
        data_licence="CC0-1.0",
        schedule=SCHEDULE,
    )


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
    with redirect_stderr(io.StringIO()) as said:
        model = train(recipe(written(home / "data", samples)), home / "run", tracking_uri)
    stages = ("precision", "step 4: ", "tuning", "scoring", "drawing", "exporting", "registering")
    assert [stage for stage in stages if f"\n{stage}" in f"\n{said.getvalue()}"] == list(stages)
    return model


def test_a_model_version_carries_all_that_serving_needs(
    trained: TrainedModel, tracking_uri: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(tracking_uri)
    version = MlflowClient().get_model_version("nuclei-unet", trained.version.version)
    assert version.tags["encoder"] == ENCODER
    assert version.tags["licence"] == trained.contract.licence == "Apache-2.0 AND CC0-1.0"
    assert version.tags["data_set.1"] == "data, CC0-1.0"
    (data,) = trained.contract.data
    assert (data.name, data.licence, sum(data.images.values())) == ("data", "CC0-1.0", 12)
    folder = Path(
        mlflow.artifacts.download_artifacts(
            f"models:/nuclei-unet/{version.version}", dst_path=str(tmp_path)
        )
    )
    assert {path.name for path in folder.iterdir()} >= {
        *("contract.json", "preprocess.onnx", "tta.onnx"),
        *("network.onnx", "merge.onnx", "reference-grey.npz", "reference-colour.npz"),
    }
    trained_on = Trained.read(folder, trained.contract).digests
    assert trained_on is not None
    assert len(trained_on) == 9
    reference, _ = read_references(folder, trained.contract)
    # A held-out image of 96 x 128 pixels, mirrored to a tile.
    assert reference.image.shape[:2] == (256, 256)
    np.testing.assert_array_equal(reference.image[:96, 128:], reference.image[:96, 127::-1])
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
    samples: list[Sample], tracking_uri: str, tmp_path: Path
) -> None:
    asked = Stopped(
        **vars(replace(recipe(written(tmp_path / "data", samples)), architecture="cnn"))
    )
    with (
        pytest.raises(TrainingInterrupted, match=r"after step 3; .*--resume"),
        joined(SCHEDULE) as rank,
    ):
        train(asked, tmp_path / "run", tracking_uri, rank)
    run_id = (tmp_path / "run" / "mlflow_run_id").read_text()
    client = MlflowClient(tracking_uri)
    assert client.get_run(run_id).info.status == "FAILED"
    resumed = train(UNet.read(tmp_path / "run"), tmp_path / "run", tracking_uri)
    assert resumed.version.run_id == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    history = client.get_metric_history(run_id, "train_loss")
    assert [point.step for point in history] == [2, 4]


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


def test_a_finished_training_is_not_opened_again(
    trained: TrainedModel, samples: list[Sample], tracking_uri: str, tmp_path: Path
) -> None:
    (tmp_path / "model_version.json").write_text(json.dumps(vars(trained.version)))
    asked = recipe(written(tmp_path / "data", samples))
    with pytest.raises(InvalidOption, match="is finished: it made nuclei-unet version 1"):
        train(asked, tmp_path, tracking_uri)
    run = MlflowClient(tracking_uri).get_run(trained.version.run_id)
    assert run.info.status == "FINISHED"


@pytest.fixture(scope="module")
def parent(
    trained: TrainedModel, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The files of a version, and its licence."""
    mlflow.set_tracking_uri(tracking_uri)
    return Path(
        mlflow.artifacts.download_artifacts(
            f"models:/nuclei-unet/{trained.version.version}",
            dst_path=str(tmp_path_factory.mktemp("parent")),
        )
    )


def going_on(data: Path, parent: Path) -> UNet:
    return replace(
        recipe(data),
        name="mylab",
        parent="nuclei-unet:1",
        parent_files=parent,
        parent_licence="Apache-2.0 AND CC-BY-4.0",
        schedule=replace(FINE_TUNING, steps=2, batch_size=2, crop_px=64, workers=0),
    )


def test_a_training_goes_on_from_a_version_under_a_name_of_its_own(
    trained: TrainedModel,
    parent: Path,
    make_sample: MakeSample,
    tracking_uri: str,
    tmp_path: Path,
) -> None:
    own = [make_sample(f"own-{seed}", "fluorescence", (96, 128), seed) for seed in range(50, 55)]
    data = written(tmp_path / "data", own)
    (data / "provenance.csv").write_text("id,by\n")
    model = train(going_on(data, parent), tmp_path / "run", tracking_uri)
    assert (model.version.name, model.version.version) == ("nuclei-mylab", "1")
    assert model.contract.family == "mylab"
    client = MlflowClient(tracking_uri)
    tags = client.get_model_version("nuclei-mylab", "1").tags
    assert (tags["parent"], tags["architecture"]) == ("nuclei-unet:1", "unet")
    assert tags["licence"] == "Apache-2.0 AND CC0-1.0 AND CC-BY-4.0"
    run = client.get_run(model.version.run_id)
    assert run.data.tags["parent"] == "nuclei-unet:1"
    (noted,) = client.list_artifacts(run.info.run_id, "provenance")
    assert noted.path == "provenance/data.csv"
    files = Path(mlflow.artifacts.download_artifacts("models:/nuclei-mylab/1"))
    before = Trained.read(parent, trained.contract)
    after = Trained.read(files, model.contract)
    assert after.complete
    assert before.digests < after.digests
    assert len(after.digests) == len(before.digests) + 4


def test_images_that_the_parent_learned_are_not_held_out(
    trained: TrainedModel,
    parent: Path,
    samples: list[Sample],
    make_sample: MakeSample,
    tmp_path: Path,
) -> None:
    own = [make_sample(f"own-{seed}", "fluorescence", (96, 128), seed) for seed in range(50, 58)]
    data = written(tmp_path / "data", [*samples, *own])
    learning, validating = split(going_on(data, parent))
    assert len(learning) + len(validating) == len(samples) + len(own)
    held_out, new = {one.id for one in validating}, {one.id for one in own}
    assert held_out - new == set(trained.contract.held_out)
    assert len(held_out & new) == 2


def test_folds_leave_out_no_source_that_the_parent_learned(
    parent: Path, samples: list[Sample], make_sample: MakeSample, tmp_path: Path
) -> None:
    # One that only names what it held out, none of which is among the images to learn from.
    files = shutil.copytree(parent, tmp_path / "parent")
    (files / "trained_on.json").unlink()
    own = [make_sample(f"own-{seed}", "fluorescence", (96, 128), seed) for seed in range(50, 54)]
    asked = replace(
        going_on(written(tmp_path / "old", samples), files),
        data=(tmp_path / "old", written(tmp_path / "new", own)),
        folds=2,
        fold_steps=1,
    )
    model = train(asked, tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [folder.name for folder in (tmp_path / "run" / "folds").iterdir()] == ["new"]
    assert "left_out/dsb_score/new" in model.contract.validation


def test_it_begins_with_the_parents_answers_and_keeps_its_statistics(
    parent: Path, samples: list[Sample], tmp_path: Path
) -> None:
    asked = going_on(tmp_path, parent)
    weights = asked.first_weights()
    assert weights is not None
    still = replace(asked, schedule=replace(asked.schedule, learning_rate=0.0))
    network, _ = still.fit(samples, tmp_path / "still", None, lambda *_: None)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, weights[name])
    network, _ = asked.fit(samples, tmp_path / "learns", None, lambda *_: None)
    changed = {
        name.rpartition(".")[2]
        for name, value in network.state_dict().items()
        if not torch.equal(value, weights[name])
    }
    assert changed == {"weight", "bias"}


def test_without_steps_only_the_post_processing_is_tuned(
    trained: TrainedModel,
    parent: Path,
    samples: list[Sample],
    make_sample: MakeSample,
    tmp_path: Path,
) -> None:
    own = [make_sample(f"own-{seed}", "fluorescence", (96, 128), seed) for seed in range(50, 55)]
    asked = going_on(written(tmp_path / "old", samples), parent)
    asked = replace(
        asked,
        data=(tmp_path / "old", written(tmp_path / "new", own)),
        schedule=replace(asked.schedule, steps=0),
        folds=2,
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    model = train(asked, tmp_path / "run", uri)
    files = Path(mlflow.artifacts.download_artifacts("models:/nuclei-mylab/1", tracking_uri=uri))
    assert (files / "network.onnx").read_bytes() == (parent / "network.onnx").read_bytes()
    assert model.contract.postprocessing != trained.contract.postprocessing
    assert model.contract.training == pytest.approx(trained.contract.training, abs=0.01)
    assert "left_out/dsb_score/new" in model.contract.validation
    with pytest.raises(InvalidOption, match="is finished"):
        train(asked, tmp_path / "run", uri)


def test_another_network_than_the_parents_leaves_nothing_behind(
    parent: Path, samples: list[Sample], tracking_uri: str, tmp_path: Path
) -> None:
    asked = going_on(written(tmp_path / "data", samples), parent)
    with pytest.raises(InvalidData, match="name the --architecture and the --encoder"):
        train(replace(asked, architecture="linknet"), tmp_path / "run", tracking_uri)
    with pytest.raises(InvalidOption, match=r"--name is 'my\.lab'"):
        train(replace(asked, name="my.lab"), tmp_path / "run", tracking_uri)
    assert not (tmp_path / "run").exists()


UNUSABLE: list[tuple[dict[str, Any], type[NucleiError], str]] = [
    ({"data": (Path("nowhere"),)}, InvalidData, "nowhere does not exist"),
    ({"loss": "l2"}, InvalidOption, "'l2' is unknown"),
    ({"encoder": "nothing"}, InvalidOption, "'nothing' is unknown"),
    ({"schedule": replace(SCHEDULE, crop_px=100)}, InvalidOption, "multiple of 32"),
    ({"schedule": replace(SCHEDULE, precision="fp8")}, InvalidOption, "expected auto, bf16, fp32"),
    ({"schedule": replace(SCHEDULE, device="gpu")}, InvalidOption, "expected cpu, cuda"),
    ({"schedule": replace(SCHEDULE, steps=0)}, InvalidOption, "give it as --from"),
    ({"categories": ("nucleus",)}, InvalidData, "no object of category 'nucleus'"),
]


@pytest.mark.parametrize(("change", "error", "reason"), UNUSABLE)
def test_what_cannot_be_trained_leaves_nothing_behind(
    change: dict[str, Any],
    error: type[NucleiError],
    reason: str,
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    asked = replace(recipe(written(tmp_path / "data", samples[:4])), **change)
    with pytest.raises(error, match=reason):
        train(asked, tmp_path / "run", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_precision_that_was_chosen_is_a_parameter(
    trained: TrainedModel, tracking_uri: str
) -> None:
    parameters = MlflowClient(tracking_uri).get_run(trained.version.run_id).data.params
    assert parameters["precision"] == chosen_precision("cpu", "auto")


def test_too_few_images_are_refused(
    samples: list[Sample], tracking_uri: str, tmp_path: Path
) -> None:
    data = written(tmp_path / "data", samples[:1])
    with pytest.raises(InvalidData, match=r"at least one each: .*--validation-fraction"):
        train(recipe(data), tmp_path / "run", tracking_uri)


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "{}", '{"data": "x", "family": "unet", "schedule": 3}'),
        UNet(data=(Path("x"),)).to_json().replace('"unet"', '"mask_rcnn"'),
    ],
)
def test_a_folder_of_no_training_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "options.json").write_text(text)
    with pytest.raises(InvalidData, match="no folder of a training of unet"):
        UNet.read(tmp_path)


def test_options_survive_their_file(tmp_path: Path) -> None:
    asked = replace(recipe(tmp_path), pixel_size_um=0.5, loss="dice", categories=("a", "b"))
    for one in (asked, going_on(tmp_path, tmp_path)):
        (tmp_path / "options.json").write_text(one.to_json())
        assert UNet.read(tmp_path) == one
