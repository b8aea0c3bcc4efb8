"""`nuclei train unet`."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from nuclei.cli.train.options import Training, trains
from training.schedule import Augmentation, Schedule

EPILOG = """
**Examples**

nuclei train unet my_images/                      (a laptop; about two hours)

nuclei train unet stage1_train.zip --encoder resnet34 --steps 20000 --device cuda

nuclei train unet my_images/ --architecture linknet        (registered as nuclei-linknet)

nuclei train unet my_images/ --loss bce_log_dice+hard_pixels --seed 7

nuclei train unet --resume runs/unet-20260101-120000    (after a kill or a power cut)

Then: nuclei models; nuclei export --repository my_models/; nuclei serve --repository my_models/
"""


@trains(Schedule())
def unet(
    asked: Training,
    architecture: Annotated[
        str,
        typer.Option(
            help="unet, linknet, fpn, unetplusplus, deeplabv3plus; fcn or cnn as baselines."
        ),
    ] = "unet",
    encoder: Annotated[
        str,
        typer.Option(help="Encoder of segmentation_models_pytorch, or a timm backbone as tu-NAME."),
    ] = "tu-regnetx_004",
    loss: Annotated[
        str,
        typer.Option(
            help="bce, dice, jaccard, bce_log_dice, focal, hard_pixels; add them with '+'."
        ),
    ] = "bce+dice",
    border_weight: Annotated[
        float,
        typer.Option(min=0, help="Extra weight of pixels between close nuclei; often 10."),
    ] = 0.0,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced/--unbalanced", help="Show rare modalities more often than their share."
        ),
    ] = True,
    colour: Annotated[
        bool,
        typer.Option(
            "--colour/--no-colour", help="Vary the stain, and sometimes remove the colour."
        ),
    ] = True,
) -> None:
    """Train a U-Net or a similar network, tune its post-processing, and register its ONNX graphs.

    Progress, curves, scores per modality and pictures go to MLflow. A run that was stopped
    continues from its last validation with --resume.
    """
    from training.families.unet import UNet

    augmentation = Augmentation() if colour else Augmentation(stain=0.0, grey=0.0)
    schedule = replace(asked.schedule, balanced=balanced, augmentation=augmentation)

    def make(shared: dict[str, Any]) -> UNet:
        return UNet(
            **shared,
            architecture=architecture,
            encoder=encoder,
            loss=loss,
            border_weight=border_weight,
        )

    replace(asked, schedule=schedule).start(UNet.read, make)
