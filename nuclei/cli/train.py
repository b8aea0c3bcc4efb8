"""`nuclei train`: train and register a segmenter."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from nuclei.errors import InvalidOption, MissingPrerequisite
from nuclei.registry import default_tracking_uri

app = typer.Typer(
    help="Train a segmenter on your images, tracked and registered in MLflow.",
    no_args_is_help=True,
)

UNET_EPILOG = """
**Examples**

nuclei train unet my_images/                      (a laptop; about two hours)

nuclei train unet stage1_train.zip --encoder resnet34 --steps 20000 --device cuda

nuclei train unet my_images/ --loss bce_log_dice+hard_pixels --seed 7

nuclei train unet --resume runs/unet-20260101-120000    (after a kill or a power cut)

Then: nuclei models; nuclei export --repository my_models/; nuclei serve --repository my_models/
"""


@app.callback()
def _group() -> None:
    """Keep `unet` a subcommand."""


@app.command(epilog=UNET_EPILOG)
def unet(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Folder or zip: images/ with masks/ (label images), the Data Science Bowl's "
            "<id>/images and <id>/masks, or x.tif beside x_labels.tif.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(help="Encoder of segmentation_models_pytorch, or a timm backbone as tu-NAME."),
    ] = "tu-regnetx_004",
    loss: Annotated[
        str,
        typer.Option(help="bce, dice, jaccard, bce_log_dice, focal, hard_pixels; join with '+'."),
    ] = "bce+dice",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 9000,
    batch_size: Annotated[int, typer.Option(min=2, help="Crops per step.")] = 8,
    crop: Annotated[int, typer.Option(min=64, help="Side of a crop, pixels.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 2e-3,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 500,
    patience: Annotated[
        int, typer.Option(min=1, help="Validations without a better score before stopping early.")
    ] = 20,
    validation_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the images held out.")
    ] = 0.1,
    pixel_size_um: Annotated[
        float | None, typer.Option(help="Pixel size of the images, micrometres, if all share it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the crops.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu; cuda where there is one by default.")
    ] = None,
    precision: Annotated[str, typer.Option(help="bf16 (mixed precision) or fp32.")] = "bf16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make crops.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of this run (checkpoints); runs/unet-<time> by default."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Folder of a run that was stopped: go on with its options."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow tracking URI; MLFLOW_TRACKING_URI or ~/.nuclei by default."),
    ] = None,
) -> None:
    """Train a U-Net, tune its post-processing, and register it with its ONNX graphs.

    Progress, curves, scores per kind of image and pictures go to MLflow. A run that was killed
    goes on from its last validation with --resume.
    """
    _require_training()
    from training.optimisation import Schedule
    from training.unet import UNetOptions, train_unet

    if resume is not None:
        folder, options = resume, UNetOptions.read(resume)
    elif data is None:
        raise InvalidOption("no images were named; give a folder or a zip, or --resume RUN")
    else:
        folder = out or Path("runs") / f"unet-{datetime.now():%Y%m%d-%H%M%S}"
        schedule = Schedule(
            steps=steps,
            batch_size=batch_size,
            crop_px=crop,
            loss=loss,
            learning_rate=learning_rate,
            validate_every=validate_every,
            patience=patience,
            seed=seed,
            precision=precision,
            device=device or _best_device(),
            workers=workers,
        )
        options = UNetOptions(data.resolve(), encoder, validation_fraction, pixel_size_um, schedule)
    console = Console()
    console.print(f"run folder: {folder}   (after a kill: nuclei train unet --resume {folder})")
    uri = tracking_uri or default_tracking_uri()
    model = train_unet(options, folder, uri)
    console.print(model.evaluation.table("validation images"))
    parity = Table("graph", "largest difference between ONNX and torch")
    for name, difference in model.parity.items():
        parity.add_row(name, f"{difference:.1e}")
    console.print(parity)
    version = model.version
    console.print(
        f"registered {version.name} version {version.version} in {uri}\n"
        f"next: nuclei export --version {version.version} --repository my_models/"
    )


def _require_training() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingPrerequisite(
            "training needs torch, which the serving environment leaves out: run `make train-env` "
            "and use .venv-train/bin/nuclei"
        ) from error


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
