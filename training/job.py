"""A training from start to end: images in, a registered model version out."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.console import messages, tracked
from nuclei.errors import InvalidData, InvalidOption
from nuclei.evaluation.charts import figures
from nuclei.evaluation.coco import Candidates
from nuclei.evaluation.comparison import Comparison, Entry
from nuclei.evaluation.left_out import LEFT_OUT_FILE
from nuclei.evaluation.report import report
from nuclei.evaluation.scores import Evaluation
from nuclei.evaluation.unseen import TRAINED_ON_FILE, Trained
from nuclei.imaging.images import frame_from_array
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.provenance import DataSet, all_of
from nuclei.inference.reference import tile_of, write_references
from nuclei.postprocessing.accumulation import Accumulator
from nuclei.quality.judgement import group_of
from nuclei.quality.reference import QualityReference
from nuclei.registry import DATA_TAG, LICENCE_TAG
from training.curves import learning_curves
from training.data.dataset import Sample, fingerprint, read_datasets, source_of, summary
from training.data.files import PROVENANCE
from training.data.provenance import data_sets
from training.data.split import split_samples
from training.engine import TorchEngine
from training.folders import writing
from training.hardware import (
    FP32,
    check_device,
    check_precision,
    chosen_precision,
    described_precision,
    mixed_precision,
)
from training.left_out import (
    LABELS_FOLDER,
    Fold,
    LeftOutTuning,
    answered,
    dealt,
    learned_before,
    train_folds,
)
from training.optimisation import Progress, Report, Validate, fit
from training.quality import MIN_FRAMES, calibrated, calibration_images, observe
from training.ranks import ALONE, Rank
from training.schedule import Augmentation, Schedule
from training.tuning import Tuner, labelled_all, predict_all

if TYPE_CHECKING:
    from training.tracking import ModelVersion, Run

OPTIONS_FILE = "options.json"
CHECKPOINT_FILE = "checkpoint.pt"
VERSION_FILE = "model_version.json"
CROP_MULTIPLE_PX = 32
# The source of a calibration with the images that a training held out.
VALIDATION = "validation"
# SPDX, of this project.
CODE_LICENCE = "Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """The options of a training, and the steps that are specific to its family.

    Attributes:
        data: folders and zips of images and masks (see `training.data.dataset`), each a source.
        categories: of outlines that are nuclei; may be empty where there is only one.
        validation_fraction: share of the images held out.
        pixel_size_um: pixel size of the images, micrometres; None when mixed or unknown.
        data_licence: of images and masks whose licence is not known otherwise
            (`training.data.provenance`), SPDX; empty when it is not stated.
        schedule: how the network is optimised.
    """

    data: tuple[Path, ...]
    categories: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    pixel_size_um: float | None = None
    data_licence: str = ""
    schedule: Schedule = field(default_factory=Schedule)

    family: ClassVar[str]

    @abstractmethod
    def contract(self) -> Contract:
        """What serving needs to know about the network; its post-processing is not tuned yet."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with random weights."""

    @abstractmethod
    def fit(
        self,
        samples: Sequence[Sample],
        folder: Path,
        validate: Validate,
        report: Report,
        rank: Rank = ALONE,
    ) -> tuple[nn.Module, Progress]:
        """The trained network on the CPU; continues where a killed run stopped."""

    @abstractmethod
    def modules(self, network: nn.Module) -> Mapping[str, nn.Module]:
        """The modules of the graph around a network in evaluation mode, by step."""

    def code_licences(self) -> frozenset[str]:
        """The licences of the code that the trained model falls under, SPDX."""
        return frozenset({CODE_LICENCE})

    def licences_before(self) -> tuple[str, ...]:
        """The licences of what the network was before this training, SPDX."""
        return ()

    def data_before(self) -> tuple[DataSet, ...]:
        """The data sets that the network learned from before this training."""
        return ()

    def minutes_before(self) -> float:
        """How long the network was trained before this training."""
        return 0.0

    def trained_before(self) -> Trained:
        """The images that the network was trained on before this training."""
        return Trained.on([])

    def held_out_before(self) -> frozenset[str]:
        """Names of images that it was validated on before: they stay held out."""
        return frozenset()

    @abstractmethod
    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        """Write the ONNX files of the graphs; gives the largest difference of each from torch."""

    def engine(self, network: nn.Module, contract: Contract, precision: str) -> TorchEngine:
        """Runs a network in evaluation mode, on the schedule's device, in a precision or `auto`."""
        device = self.schedule.device
        context = partial(mixed_precision, device, precision)
        return TorchEngine(self.modules(network), contract, device, context)

    def check(self) -> None:
        """Raises what is wrong with the options, before anything is read or written.

        Raises:
            InvalidOption: an unknown encoder, loss and so on, or a size that does not fit.
            MissingPrerequisite: the device is missing.
            InvalidData: files that the options name cannot be used.
        """
        check_device(self.schedule.device)
        check_precision(self.schedule.precision)
        if self.schedule.crop_px % CROP_MULTIPLE_PX:
            raise InvalidOption(
                f"crops of {self.schedule.crop_px} pixels do not fit the networks; expected a "
                f"multiple of {CROP_MULTIPLE_PX}"
            )
        self.build()

    def tags(self) -> Mapping[str, Any]:
        """Tags of the registered model version, besides family and scores."""
        return {}

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "family": self.family}, indent=2, default=str)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The recipe a training folder was started with.

        Raises:
            InvalidData: it is not a training folder of this family.
        """
        try:
            options = json.loads((folder / OPTIONS_FILE).read_text())
            family = options.pop("family")
            if family != cls.family:
                raise ValueError(f"it holds one of {family}")
            schedule = options.pop("schedule")
            augmentation = Augmentation(**schedule.pop("augmentation"))
            schedule = Schedule(**schedule, augmentation=augmentation)
            options["categories"] = tuple(options.get("categories", ()))
            if not isinstance(options["data"], list):
                raise ValueError("an earlier release wrote it")
            options["data"] = tuple(map(Path, options["data"]))
            for path in (one.name for one in fields(cls) if one.type in (Path, Path | None)):
                options[path] = options[path] and Path(options[path])
            return cls(**options, schedule=schedule)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidData(
                f"{folder} is no folder of a training of {cls.family} ({error}); "
                "start one without --resume"
            ) from error


@dataclass(frozen=True, kw_only=True)
class LearnedRecipe(Recipe):
    """The recipe of a network that learns from crops: a `training.optimisation.Learner`.

    Attributes:
        folds: the sources are left out in so many further trainings at most, and post-processing is
            tuned on what these answer to them (`training.left_out`); 0 trains once.
        fold_steps: of each of these trainings; None for the schedule's.
    """

    folds: int = 0
    fold_steps: int | None = None

    @property
    def captures_graph(self) -> bool:
        """`training.optimisation.Learner.captures_graph`."""
        return False

    @property
    def goes_on(self) -> bool:
        """Whether it starts from a model instead of from random weights."""
        return False

    def check(self) -> None:
        super().check()
        if not self.schedule.steps and not self.goes_on:
            raise InvalidOption(
                "--steps 0 only tunes the post-processing of a model that is there; give it as "
                "--from, or more steps"
            )
        if self.fold_steps is not None and not self.folds:
            raise InvalidOption("--fold-steps is of --folds: give both, or neither")

    def learns_from(self, sample: Sample) -> bool:
        """Whether the network changes by this image."""
        return True

    @abstractmethod
    def targets(self, labels: NDArray[np.uint16]) -> Any:
        """`training.optimisation.Learner.targets`."""

    @abstractmethod
    def loss_of(self, network: nn.Module, images: Tensor, targets: Any) -> Tensor:
        """`training.optimisation.Learner.loss_of`."""

    def first_weights(self) -> Mapping[str, Tensor] | None:
        """`training.optimisation.Learner.first_weights`."""
        return None

    def fit(
        self,
        samples: Sequence[Sample],
        folder: Path,
        validate: Validate | None,
        report: Report,
        rank: Rank = ALONE,
    ) -> tuple[nn.Module, Progress]:
        samples = [sample for sample in samples if self.learns_from(sample)]
        schedule = self.schedule
        if not samples:  # all that it would learn from is left out
            schedule = replace(schedule, steps=0, minutes=None)
        return fit(self, samples, schedule, folder / CHECKPOINT_FILE, validate, report, rank)


@dataclass(frozen=True)
class TrainedModel:
    """What a training gave."""

    version: "ModelVersion"
    contract: Contract
    evaluation: Evaluation
    parity: dict[str, float]


def train(recipe: Recipe, folder: Path, tracking_uri: str, rank: Rank = ALONE) -> TrainedModel:
    """Train, tune, score, export and register a model; continues where a killed run stopped.

    The other processes of the training, if there are any, call `follow`.

    Args:
        recipe: what to train, on what, and how.
        folder: of this training: options, checkpoints, the id of its MLflow run and, at the end,
            the model version.
        tracking_uri: of MLflow.
        rank: this process, the first of the training.

    Raises:
        InvalidData: data that cannot be used, a checkpoint of another training, or other processes
            have other images.
        InvalidOption: an unknown encoder, loss and so on, a training that is finished, a folder
            that cannot be written, or several processes for a model that does not learn.
        MissingPrerequisite: the device is missing.
        TrainingInterrupted: it was told to stop.
    """
    # MLflow takes seconds to import, and a training that is not tracked does not need it.
    from training.tracking import tracked_run

    training, validation = _begin(recipe, folder, rank)
    schedule = recipe.schedule
    _say(described_precision(schedule.device, schedule.precision))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OPTIONS_FILE).write_text(recipe.to_json())
    with tracked_run(folder, tracking_uri, folder.name, _parameters(recipe)) as run:
        run.tags({**_data_tags(training, validation), **recipe.tags(), "n_processes": rank.size})
        for path in recipe.data:
            if (path / PROVENANCE).is_file():
                run.text((path / PROVENANCE).read_text(), f"provenance/{source_of(path)}.csv")
        network, progress = recipe.fit(
            training, folder, partial(_validate, recipe, validation), run.metrics, rank
        )
        networks = _folds(recipe, network, training, validation, folder, rank)
        rank.part()
        run.history(progress.history)
        run.tags({"n_parameters": n_parameters(network), "best_step": progress.best_step})
        folds = answered(recipe, networks, [*training, *validation])
        contract, evaluation, left_out = _tune(
            recipe, network, validation, folds, run, progress.step
        )
        if left_out is not None:
            left_out.write_labels(folder / LABELS_FOLDER)
        data = data_sets([*training, *validation], recipe.data_licence)
        contract = replace(
            contract,
            training=_effort(network, progress, recipe.minutes_before()),
            licence=_licence(recipe, data),
            data=_all_data(data, recipe.data_before()),
            quality=_calibrate(recipe, network, contract, validation),
        )
        if progress.history:
            run.picture(learning_curves(progress.history), "learning_curves.png")
        parity, version = _register(
            recipe, network, contract, progress, run, training, validation, left_out
        )
        registered = {**asdict(version), "scores": contract.validation}
        (folder / VERSION_FILE).write_text(json.dumps(registered, indent=2))
        return TrainedModel(version, contract, evaluation, parity)


def follow(recipe: Recipe, folder: Path, rank: Rank) -> None:
    """What all processes of a training do but the first: learn, and leave the rest to it.

    Args:
        recipe, folder: as of `train`.
        rank: this process.

    Raises:
        As `train`.
    """
    training, validation = _begin(recipe, folder, rank)
    network, _ = recipe.fit(
        training, folder, partial(_validate, recipe, validation), lambda *_: None, rank
    )
    _folds(recipe, network, training, validation, folder, rank)
    rank.part()


def _begin(recipe: Recipe, folder: Path, rank: Rank) -> tuple[list[Sample], list[Sample]]:
    """Check everything; gives the images, as `split`."""
    _refuse_finished(folder)
    if rank.size > 1 and not isinstance(recipe, LearnedRecipe):
        raise InvalidOption(
            f"{recipe.family} combines trained networks and learns nothing, so {rank.size} "
            "processes are of no use; start it without torchrun"
        )
    recipe.check()
    training, validation = split(recipe)
    if isinstance(recipe, LearnedRecipe) and not any(map(recipe.learns_from, training)):
        raise InvalidData(
            f"none of the {len(training)} images to train on is of the kind that is learned; add "
            "some, or leave out --keep"
        )
    if isinstance(recipe, LearnedRecipe) and recipe.folds:
        dealt(training, _learned(recipe, [*training, *validation]), recipe.folds)
    rank.check_same("the options", recipe)
    rank.check_same("the images", fingerprint([*training, *validation]))
    return training, validation


def _say(stage: str) -> None:
    messages().print(stage, soft_wrap=True)


def _refuse_finished(folder: Path) -> None:
    try:
        version = json.loads((folder / VERSION_FILE).read_text())
    except OSError:
        return
    raise InvalidOption(
        f"the training in {folder} is finished: it made {version['name']} version "
        f"{version['version']}; start another one in a new folder"
    )


def split(recipe: Recipe) -> tuple[list[Sample], list[Sample]]:
    """The images a recipe learns from, and those it holds out: none that it has learned before.

    Raises:
        InvalidData: data that cannot be used, or too little of it.
    """
    samples = read_datasets(recipe.data, recipe.categories)
    training, validation = split_samples(
        samples,
        recipe.validation_fraction,
        recipe.schedule.seed,
        _learned(recipe, samples),
        recipe.held_out_before(),
    )
    if not training or not validation:
        raise InvalidData(
            f"{', '.join(map(str, recipe.data))}: {len(samples)} images, which leaves "
            f"{len(training)} to train on and {len(validation)} to validate; expected at least one "
            "each: add images, or change --validation-fraction"
        )
    return training, validation


def _learned(recipe: Recipe, samples: Sequence[Sample]) -> frozenset[str]:
    """Names of those of all images that the recipe's network was trained on before."""
    return learned_before(samples, recipe.trained_before())


def _folds(
    recipe: Recipe,
    network: nn.Module,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    folder: Path,
    rank: Rank,
) -> Mapping[frozenset[str], nn.Module]:
    """The networks that have not seen a source, where they are asked for."""
    if not isinstance(recipe, LearnedRecipe) or not recipe.folds:
        return {}
    learned = _learned(recipe, [*training, *validation])
    return train_folds(recipe, network, training, learned, folder, rank)


def _validate(recipe: Recipe, samples: Sequence[Sample], network: nn.Module) -> dict[str, float]:
    """Scores of a network in training, with the contract's untuned parameters."""
    contract = recipe.contract()
    engine = recipe.engine(network, contract, recipe.schedule.precision)
    predicted = predict_all(samples, engine, engine.served, tta=False)
    evaluation = Evaluation.of(samples, labelled_all(samples, predicted, contract))
    return {f"val_{name}": value for name, value in _flat(evaluation).items()}


def _tune(
    recipe: Recipe,
    network: nn.Module,
    validation: Sequence[Sample],
    folds: Sequence[Fold],
    run: "Run",
    step: int,
) -> tuple[Contract, Evaluation, LeftOutTuning | None]:
    """Tune post-processing, on left-out sources if there are any; score with and without TTA."""
    contract, schedule = recipe.contract(), recipe.schedule
    engine = recipe.engine(network.to(schedule.device), contract, FP32)
    answers = predict_all(validation, engine, engine.served, tta=False)
    tuner = Tuner(contract, validation, answers)
    left_out = LeftOutTuning(recipe, folds, validation, answers) if folds else None
    if left_out is None:
        _say(f"tuning the post-processing on the {len(validation)} validation images")
        tuned = tuner.best(np.arange(len(validation)))
    else:
        _say("tuning the post-processing on sources that were left out")
        tuned = left_out.best()
    _say("scoring, without and with TTA")
    views = (answers, predict_all(validation, engine, engine.served, tta=True))
    predicted = [labelled_all(validation, one, tuned) for one in views]
    names = (contract.family, f"{contract.family} with TTA")
    comparison = Comparison(
        tuple(
            Entry(
                name,
                Evaluation.of(validation, labels, _candidates(validation, one, tuned)),
            )
            for name, labels, one in zip(names, predicted, views, strict=True)
        )
    )
    evaluation, evaluation_tta = comparison.evaluations
    scores = {
        **_final(evaluation),
        **{f"tta/{name}": value for name, value in _final(evaluation_tta).items()},
    }
    if left_out is not None:
        _say("scoring each source that was left out, with what was tuned on the others")
        scores |= {f"left_out/{name}": value for name, value in left_out.figures().items()}
        run.text(left_out.evaluation.to_json(), "evaluation_left_out.json")
    elif len(validation) > 1:
        _say("tuning on one half of the images and scoring on the other, for each half")
        scores["cross_validated_dsb_score"] = tuner.cross_validated_score(schedule.seed)
    network.cpu()
    run.metrics(step, {f"final/{name}": value for name, value in scores.items()})
    run.text(evaluation.to_json(), "evaluation.json")
    run.text(evaluation_tta.to_json(), "evaluation_tta.json")
    _say("drawing the pictures and the report")
    frames = [frame_from_array(sample.pixels) for sample in validation]
    truths = [sample.labels for sample in validation]
    for name, figure in figures(evaluation, frames, truths, predicted[0]).items():
        run.picture(figure, name)
    title = f"{contract.family} on its validation images"
    run.text(report(title, comparison, frames, truths, predicted), "report.html")
    held_out = tuple(sample.id for sample in validation)
    return replace(tuned, validation=scores, held_out=held_out), evaluation, left_out


def _calibrate(
    recipe: Recipe, network: nn.Module, contract: Contract, validation: Sequence[Sample]
) -> QualityReference | None:
    """What the quality of frames is measured against: the validation images, where they suffice."""
    if not calibration_images(validation):
        _say(
            f"the quality of frames is not calibrated: {len(validation)} validation images are too "
            f"few, expected {MIN_FRAMES} of grey or of colour; see `nuclei calibrate`"
        )
        return None
    _say("measuring the quality of the validation images, and of spoiled copies")
    engine = recipe.engine(network.to(recipe.schedule.device), contract, FP32)
    observed = observe({VALIDATION: validation}, engine, engine.served)
    network.cpu()
    return calibrated(observed)


def _register(
    recipe: Recipe,
    network: nn.Module,
    contract: Contract,
    progress: Progress,
    run: "Run",
    training: Sequence[Sample],
    validation: Sequence[Sample],
    left_out: LeftOutTuning | None,
) -> "tuple[dict[str, float], ModelVersion]":
    with TemporaryDirectory() as scratch:
        artifacts = Path(scratch)
        _say("exporting the ONNX graphs, and comparing them with torch")
        parity = recipe.export(network, artifacts)
        (artifacts / CONTRACT_FILE).write_text(contract.to_json())
        trained = Trained.on(sample.pixels for sample in training).after(recipe.trained_before())
        trained.write(artifacts / TRAINED_ON_FILE)
        if left_out is not None:
            left_out.scores.write(artifacts / LEFT_OUT_FILE)
        _say("answering the reference images with torch")
        write_references_by_torch(recipe, network, contract, validation, artifacts)
        run.metrics(progress.step, {f"parity/{name}": value for name, value in parity.items()})
        tags = {
            "family": contract.family,
            **recipe.tags(),
            LICENCE_TAG: contract.licence,
            **{
                f"{DATA_TAG}{number}": f"{one.name}, {one.licence}: {one.citation}".rstrip(": ")
                for number, one in enumerate(contract.data, start=1)
            },
            "dsb_score": f"{contract.validation['dsb_score']:.4f}",
            "dsb_score_tta": f"{contract.validation['tta/dsb_score']:.4f}",
            "training_minutes": f"{progress.seconds / 60:.0f}",
        }
        _say("registering the model")
        return parity, run.register(contract.family, artifacts, tags)


def write_references_by_torch(
    recipe: Recipe,
    network: nn.Module,
    contract: Contract,
    samples: Sequence[Sample],
    folder: Path,
) -> None:
    """Write the references of a model: of each kind the image with most nuclei in its middle.

    Args:
        recipe: of the model.
        network: in evaluation mode, on the CPU.
        contract: with tuned post-processing.
        samples: at least one, held out.
        folder: of the model's files.
    """

    def nuclei_in_the_middle(sample: Sample) -> int:
        return len(np.unique(tile_of(sample.labels[..., None], contract)))

    crowded = sorted(samples, key=nuclei_in_the_middle, reverse=True)
    engine = TorchEngine(recipe.modules(network), contract)
    write_references([sample.pixels for sample in crowded], engine, engine.served, folder)


def _licence(recipe: Recipe, data: Sequence[DataSet]) -> str:
    """The licence of the models a recipe makes: that of its code and of its data, SPDX."""
    of_data = [one.licence for one in data]
    return all_of([*sorted(recipe.code_licences()), *of_data, *recipe.licences_before()])


def _all_data(data: Sequence[DataSet], before: Sequence[DataSet]) -> tuple[DataSet, ...]:
    """The data sets of a training and of those before; of one name, the last."""
    return tuple({one.name: one for one in (*before, *data)}.values())


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _candidates(
    samples: Sequence[Sample], answers: Sequence[Accumulator], contract: Contract
) -> list[Candidates]:
    pairs = list(zip(samples, answers, strict=True))
    parameters = contract.parameters
    return [
        Candidates.of(answer, parameters[group_of(sample.pixels)], frame_from_array(sample.pixels))
        for sample, answer in tracked(pairs, "candidates")
    ]


def _final(evaluation: Evaluation) -> dict[str, float]:
    """The headline scores and COCO's."""
    coco = {name: evaluation.coco[name] for name in ("mask_ap", "mask_ap_0.50", "box_ap")}
    return {**_flat(evaluation), **{f"coco_{name}": value or 0.0 for name, value in coco.items()}}


def _effort(network: nn.Module, progress: Progress, minutes_before: float) -> dict[str, float]:
    """The cost of all that made the network, for the contract."""
    minutes = minutes_before + progress.seconds / 60
    effort = {"parameters": float(n_parameters(network)), "minutes": minutes}
    if torch.cuda.is_available():
        effort["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return effort


def _flat(evaluation: Evaluation) -> dict[str, float]:
    """The headline scores, overall and per modality, as one level of names."""
    overall = evaluation.overall()
    return {
        "dsb_score": overall["dsb_score"],
        "ap_0.50": overall["ap_0.50"],
        "pq": overall["pq"],
        "dice": overall["dice"],
        **{
            f"dsb_score/{modality}": scores["dsb_score"]
            for modality, scores in evaluation.by_modality().items()
        },
    }


def _parameters(recipe: Recipe) -> dict[str, Any]:
    options = asdict(recipe)
    schedule = options.pop("schedule")
    augmentation = schedule.pop("augmentation")
    return {
        "family": recipe.family,
        **options,
        "data": " ".join(map(str, recipe.data)),
        "torch": torch.__version__,
        **schedule,
        "precision": chosen_precision(schedule["device"], schedule["precision"]),
        **{f"augmentation/{name}": value for name, value in augmentation.items()},
    }


def _data_tags(training: Sequence[Sample], validation: Sequence[Sample]) -> Mapping[str, Any]:
    return {
        "data_fingerprint": fingerprint([*training, *validation]),
        "data_training": json.dumps(summary(training)),
        "data_validation": json.dumps(summary(validation)),
    }
