"""What all `nuclei train` commands share: their options, their start and their report."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table

from nuclei.cli.dataset import CategoryOption
from nuclei.cli.extras import missing
from nuclei.console import output
from nuclei.errors import InvalidOption
from nuclei.registry import default_tracking_uri
from training.schedule import Schedule

if TYPE_CHECKING:
    from training.job import Recipe, TrainedModel

DataArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders and zips: images/ with masks/ (label images), with a COCO file or with "
        "YOLO's labels/; the Data Science Bowl's ID/images and ID/masks; or x.tif beside "
        "x_labels.tif. Each is a source: crops are taken evenly from all of them.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cuda or cpu; by default cuda where there is one.")
]
DataLicenceOption = Annotated[
    str,
    typer.Option(
        help="Licence of the images and masks, SPDX (CC0-1.0); the model version is tagged with "
        "it [not stated].",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Folder of a new run (checkpoints); by default runs/FAMILY-TIME."),
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a run that was stopped: continue with its options. With images, the same "
        "command starts the run and continues it."
    ),
]
TrackingUriOption = Annotated[
    str | None,
    typer.Option(help="MLflow tracking URI; by default MLFLOW_TRACKING_URI, or ~/.nuclei."),
]
# Of the images held out; the second where a training goes on from a model, with few images.
VALIDATION_FRACTION, VALIDATION_FRACTION_OF_FEW = 0.1, 0.2
FROM = "parent"
# Fields of a Schedule that a caller may set; what is not given, the family has (`trains`).
SCHEDULE_OPTIONS: dict[str, Any] = {
    "steps": Annotated[
        int,
        typer.Option(min=0, help="Optimiser steps; 0 only tunes the post-processing of --from."),
    ],
    "batch_size": Annotated[int, typer.Option(min=2, help="Crops per step.")],
    "crop_px": Annotated[int, typer.Option("--crop", min=64, help="Side of a crop, pixels.")],
    "learning_rate": Annotated[float, typer.Option(help="Peak learning rate.")],
    "validate_every": Annotated[int, typer.Option(min=1, help="Steps between validations.")],
    "patience": Annotated[
        int, typer.Option(min=1, help="Validations without a better score before stopping early.")
    ],
    "seed": Annotated[int, typer.Option(help="Seed of the split, the weights and the crops.")],
    "precision": Annotated[
        str,
        typer.Option(help="bf16 (mixed), fp32, or auto: bf16 where the device computes it."),
    ],
    "workers": Annotated[int, typer.Option(min=0, help="Processes that make crops.")],
}
FRACTION = "validation_fraction"
FRACTION_OPTION = Annotated[
    float, typer.Option(min=0.01, max=0.9, help="Share of the images held out.")
]
OTHER_OPTIONS: dict[str, tuple[Any, Any]] = {
    "folds": (
        Annotated[
            int,
            typer.Option(
                min=0,
                help="Train again without each source, in so many folds at most: tells how the "
                "model does on images of laboratories that it has not learned from, and tunes its "
                "post-processing on them. 0 trains once.",
            ),
        ],
        0,
    ),
    "fold_steps": (
        Annotated[
            int | None,
            typer.Option(min=1, help="Optimiser steps of each fold. [as many as without folds]"),
        ],
        None,
    ),
    "category": (CategoryOption, None),
    "pixel_size_um": (
        Annotated[
            float | None,
            typer.Option(help="Pixel size of the images, micrometres, if all share it."),
        ],
        None,
    ),
    "data_licence": (DataLicenceOption, ""),
    "device": (DeviceOption, None),
    "out": (OutOption, None),
    "resume": (ResumeOption, None),
    "tracking_uri": (TrackingUriOption, None),
}


@dataclass(frozen=True)
class Training:
    """A training as requested, without the options of its family.

    Attributes:
        command: name of the family's command.
        schedule, validation_fraction, pixel_size_um, data_licence: as of `training.job.Recipe`.
        folds, fold_steps: as of `training.job.LearnedRecipe`.
        category, device, data, out, resume, tracking_uri: as given on the command line.
    """

    command: str
    schedule: Schedule
    validation_fraction: float
    pixel_size_um: float | None
    data_licence: str
    folds: int
    fold_steps: int | None
    category: list[str] | None
    device: str | None
    data: list[Path] | None
    out: Path | None
    resume: Path | None
    tracking_uri: str | None

    def start(
        self, read: "Callable[[Path], Recipe]", make: "Callable[[dict[str, Any]], Recipe]"
    ) -> None:
        """Train, and print the result.

        Args:
            read: the recipe of a training folder.
            make: makes the recipe from the fields that all recipes have.
        """
        shared = {
            "categories": tuple(self.category or ()),
            "validation_fraction": self.validation_fraction,
            "folds": self.folds,
            "fold_steps": self.fold_steps,
            "pixel_size_um": self.pixel_size_um,
            "data_licence": self.data_licence,
            "schedule": self.schedule,
        }
        given = (self.device, self.data, self.out, self.resume, self.tracking_uri)
        start(
            self.command, read, lambda data: make({"data": data, **shared}), self.schedule, *given
        )


def trains(
    schedule: Schedule, fine_tuning: Schedule | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the shared options; its first parameter is the `Training` that they describe.

    Args:
        schedule: the family's defaults for the options.
        fine_tuning: the same where training goes on from a model, which the command's option
            `FROM` names; None where it cannot.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            require_training()
            asked = {name: given.pop(name) for name in ("data", *OTHER_OPTIONS)}
            chosen = {name: given.pop(name) for name in (FRACTION, *SCHEDULE_OPTIONS)}
            chosen = {name: value for name, value in chosen.items() if value is not None}
            goes_on = fine_tuning is not None and given[FROM] is not None
            base = fine_tuning if fine_tuning is not None and goes_on else schedule
            usual = VALIDATION_FRACTION_OF_FEW if goes_on else VALIDATION_FRACTION
            fraction = chosen.pop(FRACTION, usual)
            device = asked["device"] or best_device()
            settings = replace(base, device=device, **chosen)
            command(Training(command.__name__, settings, fraction, **asked), **given)

        own = list(signature(command).parameters.values())[1:]
        parameters = [
            _parameter("data", DataArgument, None),
            *(_parameter(one.name, one.annotation, one.default) for one in own),
            *(
                _parameter(name, _unless_given(option, name, schedule, fine_tuning), None)
                for name, option in {**SCHEDULE_OPTIONS, FRACTION: FRACTION_OPTION}.items()
            ),
            *(_parameter(name, *option) for name, option in OTHER_OPTIONS.items()),
        ]
        # Typer reads a command's options from these two.
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _unless_given(option: Any, name: str, schedule: Schedule, fine_tuning: Schedule | None) -> Any:
    """The option of a setting whose help tells what it is when it is not given."""
    usual = getattr(schedule, name, VALIDATION_FRACTION)
    told = f"{usual}"
    if fine_tuning is not None:
        of_few = getattr(fine_tuning, name, VALIDATION_FRACTION_OF_FEW)
        told += "" if of_few == usual else f"; with --from {of_few}"
    kind, described = get_args(option)
    described = copy(described)
    described.help, described.show_default = f"{described.help.rstrip('.')} [{told}].", False
    return Annotated[kind | None, described]


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def start(
    command: str,
    read: "Callable[[Path], Recipe]",
    make: "Callable[[tuple[Path, ...]], Recipe]",
    schedule: Schedule,
    device: str | None,
    data: list[Path] | None,
    out: Path | None,
    resume: Path | None,
    tracking_uri: str | None,
) -> None:
    """Train, and print the result.

    Args:
        command: the name of the family's command.
        read: the recipe of a training folder.
        make: the recipe for folders and zips of images; it may register the model it starts from.
        schedule: of a new run.
        device, data, out, resume, tracking_uri: as given on the command line; a device takes the
            place of the one that a run was started on.
    """
    from training.job import follow, train
    from training.ranks import joined

    begun = _begun(read, device, data, out, resume)
    with joined(schedule if begun is None else begun.schedule) as rank:
        recipe = rank.first_alone(lambda: _recipe(begun, make, data, resume))
        folder = resume or out or rank.of_first(lambda: new_folder(command))
        if not rank.leads:
            follow(recipe, folder, rank)
            return
        output().print(
            f"run folder: {folder}   (after a kill: nuclei train {command} --resume {folder})"
        )
        uri = tracking_uri or default_tracking_uri()
        _show(train(recipe, folder, uri, rank), uri)


def resolved(data: Sequence[Path]) -> tuple[Path, ...]:
    """The same files, whatever the working folder is later."""
    return tuple(path.resolve() for path in data)


def new_folder(command: str) -> Path:
    return Path("runs") / f"{command}-{datetime.now():%Y%m%d-%H%M%S}"


def _begun(
    read: "Callable[[Path], Recipe]",
    device: str | None,
    data: list[Path] | None,
    out: Path | None,
    resume: Path | None,
) -> "Recipe | None":
    """What a run has been started with; None of a new one."""
    if out is not None and resume is not None:
        raise InvalidOption("--out is the folder of a new run, --resume that of any; give one")
    if not data and resume is None:
        raise InvalidOption("no images were named; give a folder or a zip, or --resume RUN")
    if out is not None and _is_begun(out):
        raise InvalidOption(f"{out} holds a training already; name another folder, or --resume it")
    if resume is None or (data and not _is_begun(resume)):
        return None
    begun = read(resume)
    if device is not None:
        begun = replace(begun, schedule=replace(begun.schedule, device=device))
    return begun


def _recipe(
    begun: "Recipe | None",
    make: "Callable[[tuple[Path, ...]], Recipe]",
    data: list[Path] | None,
    resume: Path | None,
) -> "Recipe":
    """The recipe of a new run, or the one that a run has been started with."""
    if begun is None:
        assert data
        return make(resolved(data))
    if data:
        assert resume is not None
        _refuse_other_options(resume, begun, make(resolved(data)))
    return begun


def _is_begun(folder: Path) -> bool:
    from training.job import OPTIONS_FILE

    return (folder / OPTIONS_FILE).exists()


def _refuse_other_options(folder: Path, begun: "Recipe", asked: "Recipe") -> None:
    before, now = ({**asdict(one), **asdict(one.schedule)} for one in (begun, asked))
    for name in before.keys() - {"schedule", "device"}:
        if before[name] != now[name]:
            raise InvalidOption(
                f"{folder} holds a training with {name} {before[name]}, not {now[name]}; give what "
                "it was started with, only --resume, or another folder"
            )


def _show(model: "TrainedModel", uri: str) -> None:
    console = output()
    console.print(model.evaluation.table("validation images"))
    if (fitted := model.contract.validation.get("cross_validated_dsb_score")) is not None:
        console.print(
            "DSB score with post-processing tuned on one half of these images and scored on the "
            f"other, in turn: {fitted:.3f}"
        )
    parity = Table(
        *("graph", "largest difference"),
        title="ONNX compared with torch (maps, masks: levels, 255 = 1; boxes, rays: pixels)",
        title_justify="left",
    )
    for name, difference in model.parity.items():
        parity.add_row(name, f"{difference:.3g}")
    console.print(parity)
    version = model.version
    console.print(
        f"registered {version.name} version {version.version} in {uri}\n"
        f"next: nuclei export --model {version.name} --version {version.version} "
        "--repository my_models/\n"
        f"or, where nuclei serve --sync runs: nuclei gate {version.version} --model {version.name} "
        "--data IMAGES, then nuclei promote"
    )


def require_training() -> None:
    """Raise MissingPrerequisite where torch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise missing("torch", "train") from error


def best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
