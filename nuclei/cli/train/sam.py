"""`nuclei train sam`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclei.cli.train.common import (
    BatchSizeOption,
    CropOption,
    DataArgument,
    DeviceOption,
    OutOption,
    PatienceOption,
    PixelSizeOption,
    PrecisionOption,
    ResumeOption,
    SeedOption,
    StepsOption,
    TrackingUriOption,
    ValidateEveryOption,
    ValidationFractionOption,
    WorkersOption,
    best_device,
    require_training,
    start,
)
from nuclei.errors import InvalidOption
from nuclei.registry import default_tracking_uri, home, registered_name

if TYPE_CHECKING:
    from training.sam import Sam

EPILOG = """
**Examples**

nuclei train sam my_images/ --weights sam-vit-base/                  (the boxes of nuclei-mask-rcnn)

nuclei train sam my_images/ --weights sam-vit-base/ --detector nuclei-yolov8 --device cuda

The weights are a folder that `transformers` wrote, on a machine with internet:
SamModel.from_pretrained("facebook/sam-vit-base")
.save_pretrained("sam-vit-base"). Train a detector first.
"""


def sam(
    data: DataArgument = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder of SAM's weights (config.json, model.safetensors)."),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(help="Registered model whose boxes are the prompts: its newest version."),
    ] = registered_name("mask_rcnn"),
    steps: StepsOption = 3000,
    batch_size: BatchSizeOption = 2,
    crop: CropOption = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-4,
    validate_every: ValidateEveryOption = 500,
    patience: PatienceOption = 5,
    validation_fraction: ValidationFractionOption = 0.1,
    pixel_size_um: PixelSizeOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    precision: PrecisionOption = "bf16",
    workers: WorkersOption = 1,
    out: OutOption = None,
    resume: ResumeOption = None,
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Fine-tune Segment Anything: nuclei drawn inside the boxes of a Mask R-CNN or YOLOv8.

    Its mask decoder learns from the true boxes of your images; the image encoder stays as it is.
    Scores, curves and pictures go to MLflow, as with every model.
    """
    require_training()
    from training.optimisation import Schedule
    from training.sam import Sam

    def make(images: Path) -> "Sam":
        if weights is None:
            raise InvalidOption("--weights is missing: expected the folder of SAM's weights")
        return Sam(
            data=images,
            weights=weights.resolve(),
            detector=_newest(detector, tracking_uri or default_tracking_uri()),
            validation_fraction=validation_fraction,
            pixel_size_um=pixel_size_um,
            schedule=Schedule(
                steps=steps,
                batch_size=batch_size,
                crop_px=crop,
                learning_rate=learning_rate,
                validate_every=validate_every,
                patience=patience,
                seed=seed,
                precision=precision,
                device=device or best_device(),
                workers=workers,
            ),
        )

    start("sam", Sam.read, make, data, out, resume, tracking_uri)


def _newest(model: str, tracking_uri: str) -> Path:
    """The files of a registered model's newest version, kept for a run that goes on."""
    from serving.registry import Registry

    registry = Registry(tracking_uri)
    version = registry.find(model)
    folder = home() / "downloads" / f"{model}-{version.version}"
    folder.mkdir(parents=True, exist_ok=True)
    return registry.download(version, folder)
