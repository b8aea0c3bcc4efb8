"""`nuclei train yolov8`."""

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

nuclei train yolov8 my_images/ --size n --zoom 1      (a laptop, over night)

nuclei train yolov8 stage1_train.zip --size l --batch-size 32 --device cuda

nuclei train yolov8 --resume runs/yolov8-20260101-120000    (after a kill or a power cut)

Then: nuclei export --model nuclei-yolov8 --repository my_models/
"""


def yolov8(
    data: DataArgument = None,
    size: Annotated[str, typer.Option(help="Of the network: n, s, m, l or x.")] = "s",
    zoom: Annotated[
        int, typer.Option(min=1, max=4, help="How many times images are enlarged for it.")
    ] = 2,
    steps: StepsOption = 9000,
    batch_size: BatchSizeOption = 16,
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
    """Train a YOLOv8 with masks, tune its post-processing, and register it with its ONNX graphs.

    Network and loss are those of ultralytics (`make yolov8-env`), whose licence is AGPL-3.0; the
    model version is tagged with it. Progress, curves, scores per kind of image and pictures go to
    MLflow. A run that was killed goes on from its last validation with --resume.
    """
    require_training()
    from dataclasses import replace

    from training.yolov8 import SCHEDULE, YoloV8, require_ultralytics

    require_ultralytics()

    def make(images: Path) -> YoloV8:
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
        return YoloV8(
            data=images,
            size=size,
            zoom=zoom,
            validation_fraction=validation_fraction,
            pixel_size_um=pixel_size_um,
            schedule=schedule,
        )

    start("yolov8", YoloV8.read, make, data, out, resume, tracking_uri)
