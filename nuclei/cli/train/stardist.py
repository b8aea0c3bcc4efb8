"""`nuclei train stardist`."""

from typing import Annotated

import typer

from nuclei.cli.train.options import Training, trains
from training.schedule import Schedule

EPILOG = """
**Examples**

nuclei train stardist my_images/                      (a laptop; about two hours)

nuclei train stardist stage1_train.zip --encoder resnet34 --steps 20000 --device cuda

nuclei train stardist --resume runs/stardist-20260101-120000    (after a kill or a power cut)
"""


@trains(Schedule())
def stardist(
    asked: Training,
    encoder: Annotated[
        str,
        typer.Option(help="Encoder of segmentation_models_pytorch, or a timm backbone as tu-NAME."),
    ] = "tu-regnetx_004",
) -> None:
    """Train StarDist, which finds star-convex nuclei, and register it with its ONNX graphs.

    Progress, curves, scores per modality and pictures go to MLflow. A run that was stopped
    continues from its last validation with --resume.
    """
    from training.families.stardist import StarDist

    asked.start(StarDist.read, lambda shared: StarDist(**shared, encoder=encoder))
