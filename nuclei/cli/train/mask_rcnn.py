"""`nuclei train mask_rcnn`."""

from typing import Annotated

import typer

from nuclei.cli.train.options import Training, trains
from training.schedule import MASK_RCNN

EPILOG = """
**Examples**

nuclei train mask_rcnn my_images/ --backbone mobilenet_v3      (a laptop, overnight)

nuclei train mask_rcnn stage1_train.zip --backbone resnet50_fpn_v2 --batch-size 16 --device cuda

nuclei train mask_rcnn --resume runs/mask_rcnn-20260101-120000    (after a kill or a power cut)

Then: nuclei export --model nuclei-mask-rcnn --repository my_models/
"""


@trains(MASK_RCNN)
def mask_rcnn(
    asked: Training,
    backbone: Annotated[
        str, typer.Option(help="resnet50_fpn_v2, resnet18 or mobilenet_v3.")
    ] = "resnet18",
) -> None:
    """Train a Mask R-CNN, tune its post-processing, and register it with its ONNX graphs.

    The schedule is Detectron2's: SGD with momentum, with a learning rate divided by ten after 2/3
    and 8/9 of the steps. Progress, curves, scores per modality and pictures go to MLflow. A run
    that was stopped continues from its last validation with --resume.
    """
    from training.families.mask_rcnn import MaskRCNN

    asked.start(MaskRCNN.read, lambda shared: MaskRCNN(**shared, backbone=backbone))
