"""`nuclei train mask_rcnn`."""

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

nuclei train mask_rcnn my_images/ --backbone mobilenet_v3      (a laptop, over night)

nuclei train mask_rcnn stage1_train.zip --backbone resnet50_fpn_v2 --batch-size 16 --device cuda

nuclei train mask_rcnn --resume runs/mask_rcnn-20260101-120000    (after a kill or a power cut)

Then: nuclei export --model nuclei-mask-rcnn --repository my_models/
"""


def mask_rcnn(
    data: DataArgument = None,
    backbone: Annotated[
        str, typer.Option(help="resnet50_fpn_v2, resnet18 or mobilenet_v3.")
    ] = "resnet18",
    steps: StepsOption = 12000,
    batch_size: BatchSizeOption = 4,
    crop: CropOption = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of SGD.")] = 5e-2,
    validate_every: ValidateEveryOption = 1000,
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
    """Train a Mask R-CNN, tune its post-processing, and register it with its ONNX graphs.

    The schedule is Detectron2's: SGD with momentum, whose rate falls tenfold after 2/3 and 8/9 of
    the steps. Progress, curves, scores per kind of image and pictures go to MLflow. A run that was
    killed goes on from its last validation with --resume.
    """
    require_training()
    from dataclasses import replace

    from training.mask_rcnn import SCHEDULE, MaskRCNN

    def make(images: Path) -> MaskRCNN:
        schedule = replace(
            SCHEDULE,
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
        return MaskRCNN(
            data=images,
            backbone=backbone,
            validation_fraction=validation_fraction,
            pixel_size_um=pixel_size_um,
            schedule=schedule,
        )

    start("mask_rcnn", MaskRCNN.read, make, data, out, resume, tracking_uri)
