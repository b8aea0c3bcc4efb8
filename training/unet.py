"""The U-Net job: images in, a registered model version out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nuclei.contract import CONTRACT_FILE, Contract, WatershedParameters
from nuclei.errors import InvalidData
from nuclei.evaluation import Evaluation, ImageScores, figures
from nuclei.images import frame_from_array
from nuclei.watershed import label_nuclei
from training.augmentation import Augmentation
from training.curves import learning_curves
from training.dataset import Sample, fingerprint, read_dataset, summary
from training.engine import TorchEngine
from training.graphs import export_graphs
from training.networks import build_unet, n_parameters
from training.optimisation import Progress, Schedule, fit, mixed_precision
from training.split import split_samples
from training.tracking import ModelVersion, Run, tracked_run
from training.tuning import Tuner, predict_maps

FAMILY = "unet"
OPTIONS_FILE = "options.json"
CHECKPOINT_FILE = "checkpoint.pt"


@dataclass(frozen=True)
class UNetOptions:
    """What a U-Net training is asked for.

    Attributes:
        data: folder or zip of images and masks (see `training.dataset`).
        encoder: name of the encoder (see `training.networks.build_unet`).
        validation_fraction: share of the images held out.
        pixel_size_um: pixel size of the images, micrometres; None when mixed or unknown.
        schedule: how the network is optimised.
    """

    data: Path
    encoder: str = "tu-regnetx_004"
    validation_fraction: float = 0.1
    pixel_size_um: float | None = None
    schedule: Schedule = field(default_factory=Schedule)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "data": str(self.data)}, indent=2)

    @classmethod
    def read(cls, folder: Path) -> "UNetOptions":
        """The options a training folder was started with.

        Raises:
            InvalidData: it is not a training folder.
        """
        try:
            options = json.loads((folder / OPTIONS_FILE).read_text())
            schedule = options.pop("schedule")
            augmentation = Augmentation(**schedule.pop("augmentation"))
            data = Path(options.pop("data"))
            return cls(data, **options, schedule=Schedule(**schedule, augmentation=augmentation))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidData(
                f"{folder} is no folder of a U-Net training ({error}); start one without --resume"
            ) from error


@dataclass(frozen=True)
class TrainedModel:
    """What a training gave."""

    version: ModelVersion
    contract: Contract
    evaluation: Evaluation
    parity: dict[str, float]


def train_unet(options: UNetOptions, folder: Path, tracking_uri: str) -> TrainedModel:
    """Train, tune, score, export and register a U-Net; goes on where a killed run stopped.

    Args:
        options: what to train on, and how.
        folder: of this training: options, checkpoints, the id of its MLflow run.
        tracking_uri: of MLflow.

    Raises:
        InvalidData: data that cannot be used, or a checkpoint of another training.
        InvalidOption: an unknown encoder or loss.
    """
    samples = read_dataset(options.data)
    training, validation = split_samples(
        samples, options.validation_fraction, options.schedule.seed
    )
    if not training or not validation:
        raise InvalidData(
            f"{options.data} holds {len(samples)} images, which leaves {len(training)} to train on "
            f"and {len(validation)} to validate; expected at least one each: add images"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OPTIONS_FILE).write_text(options.to_json())
    contract = Contract(FAMILY, pixel_size_um=options.pixel_size_um)
    with tracked_run(folder, tracking_uri, folder.name, _parameters(options)) as run:
        run.tags(_data_tags(samples, training, validation))
        network, progress = fit(
            partial(build_unet, options.encoder),
            training,
            options.schedule,
            folder / CHECKPOINT_FILE,
            partial(_validate, validation, contract, options.schedule),
            run.metrics,
        )
        run.tags({"n_parameters": n_parameters(network), "best_step": progress.best_step})
        contract, evaluation = _tune(network, validation, contract, options.schedule, run)
        run.picture(learning_curves(progress.history), "learning_curves.png")
        parity, version = _register(network, contract, options, progress, run)
        return TrainedModel(version, contract, evaluation, parity)


def _validate(
    samples: Sequence[Sample], contract: Contract, schedule: Schedule, network: nn.Module
) -> dict[str, float]:
    """Scores of a network in training, with the contract's untuned parameters."""
    engine = TorchEngine(network, contract, schedule.device, partial(mixed_precision, schedule))
    maps = predict_maps(samples, engine, tta=False)
    evaluation = _evaluate(samples, _label(maps, contract.watershed))
    return {f"val_{name}": value for name, value in _flat(evaluation).items()}


def _tune(
    network: nn.Module,
    validation: Sequence[Sample],
    contract: Contract,
    schedule: Schedule,
    run: Run,
) -> tuple[Contract, Evaluation]:
    """Tune post-processing on the validation images; score them with and without TTA."""
    engine = TorchEngine(network.to(schedule.device), contract, schedule.device)
    maps = predict_maps(validation, engine, tta=False)
    tuner = Tuner(validation, maps)
    watershed = tuner.best(np.arange(len(validation)))
    predicted = _label(maps, watershed)
    evaluation = _evaluate(validation, predicted)
    with_tta = _evaluate(validation, _label(predict_maps(validation, engine, tta=True), watershed))
    scores = {
        **_flat(evaluation),
        **{f"tta/{name}": value for name, value in _flat(with_tta).items()},
    }
    if len(validation) > 1:
        scores["cross_fitted_dsb_score"] = tuner.cross_fitted_score(schedule.seed)
    network.cpu()
    run.metrics(schedule.steps, {f"final/{name}": value for name, value in scores.items()})
    run.text(evaluation.to_json(), "evaluation.json")
    run.text(with_tta.to_json(), "evaluation_tta.json")
    frames = [frame_from_array(sample.pixels) for sample in validation]
    truths = [sample.labels for sample in validation]
    for name, figure in figures(evaluation, frames, truths, predicted).items():
        run.picture(figure, name)
    held_out = tuple(sample.id for sample in validation)
    tuned = replace(contract, watershed=watershed, validation=scores, held_out=held_out)
    return tuned, evaluation


def _register(
    network: nn.Module, contract: Contract, options: UNetOptions, progress: Progress, run: Run
) -> tuple[dict[str, float], ModelVersion]:
    with TemporaryDirectory() as scratch:
        artifacts = Path(scratch)
        parity = export_graphs(network, artifacts)
        (artifacts / CONTRACT_FILE).write_text(contract.to_json())
        run.metrics(progress.step, {f"parity/{name}": value for name, value in parity.items()})
        tags = {
            "family": FAMILY,
            "encoder": options.encoder,
            "dsb_score": f"{contract.validation['dsb_score']:.4f}",
            "dsb_score_tta": f"{contract.validation['tta/dsb_score']:.4f}",
            "training_minutes": f"{progress.seconds / 60:.0f}",
        }
        return parity, run.register(FAMILY, artifacts, tags)


def _label(
    maps: Sequence[NDArray[np.uint8]], parameters: WatershedParameters
) -> list[NDArray[np.uint32]]:
    return [label_nuclei(one, parameters) for one in maps]


def _evaluate(samples: Sequence[Sample], predicted: Sequence[NDArray[np.uint32]]) -> Evaluation:
    return Evaluation(
        tuple(
            ImageScores.of(sample.id, sample.kind, sample.labels, labels)
            for sample, labels in zip(samples, predicted, strict=True)
        )
    )


def _flat(evaluation: Evaluation) -> dict[str, float]:
    """The headline scores, overall and per kind, as one level of names."""
    overall = evaluation.overall()
    return {
        "dsb_score": overall["dsb_score"],
        "ap_0.50": overall["ap_0.50"],
        "pq": overall["pq"],
        "dice": overall["dice"],
        **{
            f"dsb_score/{kind}": scores["dsb_score"]
            for kind, scores in evaluation.by_kind().items()
        },
    }


def _parameters(options: UNetOptions) -> dict[str, Any]:
    schedule = asdict(options.schedule)
    augmentation = schedule.pop("augmentation")
    return {
        "family": FAMILY,
        "data": options.data,
        "encoder": options.encoder,
        "validation_fraction": options.validation_fraction,
        "torch": torch.__version__,
        **schedule,
        **{f"augmentation/{name}": value for name, value in augmentation.items()},
    }


def _data_tags(
    samples: Sequence[Sample], training: Sequence[Sample], validation: Sequence[Sample]
) -> Mapping[str, Any]:
    return {
        "data_fingerprint": fingerprint(samples),
        "data_training": json.dumps(summary(training)),
        "data_validation": json.dumps(summary(validation)),
    }
