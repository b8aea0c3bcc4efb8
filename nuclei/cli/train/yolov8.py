"""`nuclei train yolov8`."""

from typing import Annotated

import typer

from nuclei.cli.train.options import Training, trains
from training.schedule import YOLOV8

EPILOG = """
**Examples**

nuclei train yolov8 my_images/ --size n --zoom 1      (a laptop, overnight)

nuclei train yolov8 stage1_train.zip --size l --batch-size 32 --device cuda

nuclei train yolov8 --resume runs/yolov8-20260101-120000    (after a kill or a power cut)

Then: nuclei export --model nuclei-yolov8 --repository my_models/
"""


@trains(YOLOV8)
def yolov8(
    asked: Training,
    size: Annotated[str, typer.Option(help="Size of the network: n, s, m, l or x.")] = "s",
    zoom: Annotated[
        int, typer.Option(min=1, max=4, help="Factor by which images are enlarged for the network.")
    ] = 2,
) -> None:
    """Train a YOLOv8 with masks, tune its post-processing, and register it with its ONNX graphs.

    Network and loss are those of ultralytics (`make yolov8-env`), whose licence is AGPL-3.0; the
    model version is tagged with it. Progress, curves, scores per modality and pictures go to
    MLflow. A run that was stopped continues from its last validation with --resume.
    """
    from training.families.yolov8 import YoloV8, require_ultralytics

    require_ultralytics()
    asked.start(YoloV8.read, lambda shared: YoloV8(**shared, size=size, zoom=zoom))
