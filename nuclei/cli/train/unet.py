"""`nuclei train unet`."""

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

nuclei train unet my_images/                      (a laptop; about two hours)

nuclei train unet stage1_train.zip --encoder resnet34 --steps 20000 --device cuda

nuclei train unet my_images/ --architecture linknet        (registered as nuclei-linknet)

nuclei train unet my_images/ --loss bce_log_dice+hard_pixels --seed 7

nuclei train unet --resume runs/unet-20260101-120000    (after a kill or a power cut)

Then: nuclei models; nuclei export --repository my_models/; nuclei serve --repository my_models/
"""


def unet(
    data: DataArgument = None,
    architecture: Annotated[
        str,
        typer.Option(help="unet, linknet, fpn, unetplusplus, deeplabv3plus; fcn, cnn to compare."),
    ] = "unet",
    encoder: Annotated[
        str,
        typer.Option(help="Encoder of segmentation_models_pytorch, or a timm backbone as tu-NAME."),
    ] = "tu-regnetx_004",
    loss: Annotated[
        str,
        typer.Option(help="bce, dice, jaccard, bce_log_dice, focal, hard_pixels; join with '+'."),
    ] = "bce+dice",
    border_weight: Annotated[
        float,
        typer.Option(min=0, help="How much more pixels between close nuclei weigh; often 10."),
    ] = 0.0,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced/--unbalanced", help="Show rare kinds of images more often than their share."
        ),
    ] = True,
    colour: Annotated[
        bool,
        typer.Option("--colour/--no-colour", help="Vary the stain, and take colour away at times."),
    ] = True,
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
    """Train a U-Net or its kin, tune its post-processing, and register it with its ONNX graphs.

    Progress, curves, scores per kind of image and pictures go to MLflow. A run that was killed
    goes on from its last validation with --resume.
    """
    require_training()
    from training.augmentation import Augmentation
    from training.optimisation import Schedule
    from training.unet import UNet

    def make(images: Path) -> UNet:
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
            balanced=balanced,
            augmentation=Augmentation() if colour else Augmentation(stain=0.0, grey=0.0),
        )
        return UNet(
            data=images,
            architecture=architecture,
            encoder=encoder,
            loss=loss,
            border_weight=border_weight,
            validation_fraction=validation_fraction,
            pixel_size_um=pixel_size_um,
            schedule=schedule,
        )

    start("unet", UNet.read, make, data, out, resume, tracking_uri)
