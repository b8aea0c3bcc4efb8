"""`nuclei train stardist`."""

from pathlib import Path
from typing import Annotated

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

EPILOG = """
**Examples**

nuclei train stardist my_images/                      (a laptop; about two hours)

nuclei train stardist stage1_train.zip --encoder resnet34 --steps 20000 --device cuda

nuclei train stardist --resume runs/stardist-20260101-120000    (after a kill or a power cut)
"""


def stardist(
    data: DataArgument = None,
    encoder: Annotated[
        str,
        typer.Option(help="Encoder of segmentation_models_pytorch, or a timm backbone as tu-NAME."),
    ] = "tu-regnetx_004",
    steps: StepsOption = 9000,
    batch_size: BatchSizeOption = 8,
    crop: CropOption = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 2e-3,
    validate_every: ValidateEveryOption = 500,
    patience: PatienceOption = 20,
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
    """Train StarDist, which finds star-convex nuclei, and register it with its ONNX graphs.

    Progress, curves, scores per kind of image and pictures go to MLflow. A run that was killed
    goes on from its last validation with --resume.
    """
    require_training()
    from training.optimisation import Schedule
    from training.stardist import StarDist

    def make(images: Path) -> StarDist:
        schedule = Schedule(
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
        )
        return StarDist(
            data=images,
            encoder=encoder,
            validation_fraction=validation_fraction,
            pixel_size_um=pixel_size_um,
            schedule=schedule,
        )

    start("stardist", StarDist.read, make, data, out, resume, tracking_uri)
