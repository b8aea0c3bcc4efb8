import json
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from nuclei.errors import InvalidData, InvalidOption
from nuclei.evaluation.left_out import LeftOut
from nuclei.evaluation.scores import Evaluation
from nuclei.evaluation.unseen import Trained, image_digest
from nuclei.imaging.images import read_labels
from tests.training.conftest import MakeSample
from training.data.conversion import write_dataset
from training.data.dataset import Sample, read_datasets
from training.families.unet import UNet
from training.job import TrainedModel, train
from training.left_out import FOLDS_FOLDER, LABELS_FOLDER, dealt, learned_before
from training.schedule import Schedule

SCHEDULE = Schedule(steps=2, batch_size=2, crop_px=64, validate_every=2, workers=0)


def of_sources(make_sample: MakeSample, **images: int) -> list[Sample]:
    pairs = [(source, number) for source, count in images.items() for number in range(count)]
    return [
        replace(make_sample(f"{source}-{number}", "fluorescence", (64, 64), seed), source=source)
        for seed, (source, number) in enumerate(pairs)
    ]


def test_sources_are_dealt_evenly(make_sample: MakeSample) -> None:
    samples = of_sources(make_sample, a=4, b=3, c=2, d=1)
    assert dealt(samples, frozenset(), 2) == [{"a", "d"}, {"b", "c"}]
    assert dealt(samples, frozenset(), 9) == [{"a"}, {"b"}, {"c"}, {"d"}]


def test_sources_that_the_parent_has_seen_are_not_left_out(make_sample: MakeSample) -> None:
    samples = of_sources(make_sample, a=2, b=2)
    assert dealt(samples, frozenset({"a-0"}), 5) == [{"b"}]
    with pytest.raises(InvalidData, match="0 of them are new"):
        dealt(samples, frozenset(sample.id for sample in samples), 5)


def test_what_a_network_has_learned_before(make_sample: MakeSample) -> None:
    samples = of_sources(make_sample, a=2, b=2)
    assert learned_before(samples, Trained.on([])) == frozenset()
    assert learned_before(samples, Trained.on([samples[0].pixels])) == {"a-0"}
    # One that only names what it held out: of the same data set it has seen the rest.
    parent = Trained(frozenset(), complete=False, held_out=frozenset({"a-1"}))
    assert learned_before(samples, parent) == {"a-0"}


def test_one_source_cannot_be_left_out(make_sample: MakeSample, tmp_path: Path) -> None:
    write_dataset(of_sources(make_sample, a=4), tmp_path / "a", "labels")
    recipe = UNet(
        data=(tmp_path / "a",),
        architecture="cnn",
        validation_fraction=0.25,
        folds=3,
        schedule=SCHEDULE,
    )
    with pytest.raises(InvalidData, match=r"1 sources were given.*expected two or more"):
        train(recipe, tmp_path / "run", "sqlite:///nowhere.db")
    assert not (tmp_path / "run").exists()


def test_steps_of_folds_need_folds(tmp_path: Path) -> None:
    recipe = UNet(data=(tmp_path,), fold_steps=5, schedule=SCHEDULE)
    with pytest.raises(InvalidOption, match="--fold-steps is of --folds"):
        recipe.check()


@pytest.fixture(scope="module")
def home(make_sample: MakeSample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets."""
    folder = tmp_path_factory.mktemp("left_out")
    for source, modality in {"lab": "fluorescence", "clinic": "histology"}.items():
        own = [make_sample(f"{source}-{n}", modality, (64, 96), n) for n in range(4)]
        write_dataset(own, folder / source, "labels")
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> TrainedModel:
    recipe = UNet(
        data=(home / "lab", home / "clinic"),
        architecture="cnn",
        validation_fraction=0.25,
        folds=4,
        fold_steps=SCHEDULE.steps // 2,
        schedule=SCHEDULE,
    )
    return train(recipe, home / "run", f"sqlite:///{home / 'mlflow.db'}")


def test_each_source_is_scored_by_a_network_that_has_not_seen_it(
    home: Path, trained: TrainedModel
) -> None:
    folds = home / "run" / FOLDS_FOLDER
    assert {folder.name for folder in folds.iterdir()} == {"lab", "clinic"}
    finished = [json.loads((fold / "finished.json").read_text()) for fold in folds.iterdir()]
    assert {one["progress"]["step"] for one in finished} == {SCHEDULE.steps // 2}
    figures = trained.contract.validation
    for score in ("dsb_score", "f1_0.50", "boundary_f1"):
        of_sources = [figures[f"left_out/{score}/{source}"] for source in ("lab", "clinic")]
        assert figures[f"left_out/{score}"] == pytest.approx(sum(of_sources) / 2)


def test_what_was_found_is_written_for_comparison(home: Path, trained: TrainedModel) -> None:
    samples = read_datasets([home / "lab", home / "clinic"])
    written = {path.stem: path for path in (home / "run" / LABELS_FOLDER).iterdir()}
    assert written.keys() == {sample.id for sample in samples}
    labels = [read_labels(written[sample.id]) for sample in samples]
    scores = Evaluation.of(samples, labels).overall()
    figures = trained.contract.validation
    assert figures["left_out/f1_0.50"] == pytest.approx(scores["f1_0.50"])


def test_scores_of_left_out_images_travel_with_the_version(
    home: Path, trained: TrainedModel
) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    files = Path(
        mlflow.artifacts.download_artifacts(f"models:/nuclei-cnn/{trained.version.version}")
    )
    samples = read_datasets([home / "lab", home / "clinic"])
    assert LeftOut.read(files).scores.keys() == {image_digest(one.pixels) for one in samples}
