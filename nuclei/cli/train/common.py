"""Options that every `nuclei train` command has, and the way a training is started and reported."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from nuclei.errors import InvalidOption, MissingPrerequisite
from nuclei.registry import default_tracking_uri

if TYPE_CHECKING:
    from training.job import Recipe

DataArgument = Annotated[
    Path | None,
    typer.Argument(
        help="Folder or zip: images/ with masks/ (label images), with a COCO file or with YOLO's "
        "labels/; the Data Science Bowl's ID/images and ID/masks; or x.tif beside x_labels.tif.",
        show_default=False,
    ),
]
StepsOption = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
BatchSizeOption = Annotated[int, typer.Option(min=2, help="Crops per step.")]
CropOption = Annotated[int, typer.Option(min=64, help="Side of a crop, pixels.")]
ValidateEveryOption = Annotated[int, typer.Option(min=1, help="Steps between validations.")]
PatienceOption = Annotated[
    int, typer.Option(min=1, help="Validations without a better score before stopping early.")
]
ValidationFractionOption = Annotated[
    float, typer.Option(min=0.01, max=0.9, help="Share of the images held out.")
]
PixelSizeOption = Annotated[
    float | None, typer.Option(help="Pixel size of the images, micrometres, if all share it.")
]
SeedOption = Annotated[int, typer.Option(help="Of the split, the weights and the crops.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="cuda or cpu; cuda where there is one by default.")
]
PrecisionOption = Annotated[str, typer.Option(help="bf16 (mixed precision) or fp32.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that make crops.")]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Folder of this run (checkpoints); runs/FAMILY-TIME by default."),
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(help="Folder of a run that was stopped: go on with its options."),
]
TrackingUriOption = Annotated[
    str | None,
    typer.Option(help="MLflow tracking URI; MLFLOW_TRACKING_URI or ~/.nuclei by default."),
]


def start(
    command: str,
    read: "Callable[[Path], Recipe]",
    make: "Callable[[Path], Recipe]",
    data: Path | None,
    out: Path | None,
    resume: Path | None,
    tracking_uri: str | None,
) -> None:
    """Train, and print what came of it.

    Args:
        command: the name of the family's command.
        read: the recipe of a training folder.
        make: the recipe for a folder or zip of images.
        data, out, resume, tracking_uri: as the caller gave them.
    """
    from training.job import train

    if resume is not None:
        folder, recipe = resume, read(resume)
    elif data is None:
        raise InvalidOption("no images were named; give a folder or a zip, or --resume RUN")
    else:
        folder = out or Path("runs") / f"{command}-{datetime.now():%Y%m%d-%H%M%S}"
        recipe = make(data.resolve())
    console = Console()
    console.print(
        f"run folder: {folder}   (after a kill: nuclei train {command} --resume {folder})"
    )
    uri = tracking_uri or default_tracking_uri()
    model = train(recipe, folder, uri)
    console.print(model.evaluation.table("validation images"))
    parity = Table("graph", "largest difference between ONNX and torch")
    for name, difference in model.parity.items():
        parity.add_row(name, f"{difference:.1e}")
    console.print(parity)
    version = model.version
    console.print(
        f"registered {version.name} version {version.version} in {uri}\n"
        f"next: nuclei export --model {version.name} --version {version.version} "
        "--repository my_models/"
    )


def require_training() -> None:
    """Raise MissingPrerequisite where torch is not installed."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingPrerequisite(
            "training needs torch, which the serving environment leaves out: run `make train-env` "
            "and use .venv-train/bin/nuclei"
        ) from error


def best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
