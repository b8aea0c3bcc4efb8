"""`nuclei train unet`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from nuclei.cli.train.options import Training, trains
from nuclei.cli.train.parent import find_parent
from nuclei.registry import ARCHITECTURE_TAG, ENCODER_TAG, default_tracking_uri
from training.schedule import FINE_TUNING, Augmentation, Schedule

ARCHITECTURE, ENCODER = "unet", "tu-regnetx_004"

EPILOG = """
**Examples**

nuclei train unet my_images/                      (a laptop; about two hours)

nuclei train unet stage1_train.zip --encoder resnet34 --steps 20000 --device cuda

nuclei train unet my_images/ --architecture linknet        (registered as nuclei-linknet)

nuclei train unet my_images/ --loss bce_log_dice+hard_pixels --seed 7

nuclei train unet my_images/ --from champion --name mylab  (goes on from the model that serves;
minutes, with as few as five images)

nuclei train unet lab_a/ lab_b/ --from champion --steps 0 --folds 4   (only tunes its
post-processing, on laboratories that it has not seen)

nuclei train unet slides/ cells/ --from champion --keep grey --mix 0.5   (learns slides, and stays
what it was on fluorescence)

nuclei train unet --resume runs/unet-20260101-120000    (after a kill or a power cut)

Then: nuclei models; nuclei export --repository my_models/; nuclei serve --repository my_models/
"""


@trains(Schedule(), FINE_TUNING)
def unet(
    asked: Training,
    parent: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Go on from a model instead of from random weights: `champion`, the one that "
            "serves as unet; MODEL, MODEL:VERSION or MODEL:ALIAS of the registry; or a folder with "
            "contract.json and network.onnx, named with a slash (./files).",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option(
            metavar="grey|colour",
            help="With --from: images of this kind go on being answered by its network, as it is; "
            "those of the other kind get a network of their own, which learns from them alone "
            "[none].",
            show_default=False,
        ),
    ] = "",
    mix: Annotated[
        float,
        typer.Option(
            help="With --from: how far to go from its weights to the trained ones. Less than 1 "
            "gains less on images such as yours, and loses less on others (Wortsman et al. 2022).",
        ),
    ] = 1.0,
    name: Annotated[
        str,
        typer.Option(
            help="Name of the model: `mylab` is registered as nuclei-mylab, and served as mylab "
            "beside the others [that of --from, or the architecture].",
            show_default=False,
        ),
    ] = "",
    architecture: Annotated[
        str | None,
        typer.Option(
            help="unet, linknet, fpn, unetplusplus, deeplabv3plus; fcn or cnn as baselines "
            f"[that of --from, or {ARCHITECTURE}].",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder of segmentation_models_pytorch, or a timm backbone as tu-NAME "
            f"[that of --from, or {ENCODER}].",
            show_default=False,
        ),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            help="PyTorch file of the weights that the encoder, a timm backbone, starts with, such "
            "as those that it learned on ImageNet [random].",
            show_default=False,
        ),
    ] = None,
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
    continues from its last validation with --resume. With --from it learns from your images what
    the model that it starts from gets wrong, and may forget what your images do not show: compare
    both on images of all kinds that you have before it replaces the other.
    """
    from training.families.unet import UNet

    augmentation = Augmentation() if colour else Augmentation(restain=0.0, stain=0.0, grey=0.0)
    schedule = replace(asked.schedule, balanced=balanced, augmentation=augmentation)

    def make(shared: dict[str, Any]) -> UNet:
        own: dict[str, Any] = {
            "name": name,
            "loss": loss,
            "border_weight": border_weight,
            "keep": keep,
            "mix": mix,
            "encoder_weights": encoder_weights and encoder_weights.resolve(),
        }
        tags: Mapping[str, str] = {}
        if parent is not None:
            found = find_parent(parent, asked.tracking_uri or default_tracking_uri())
            tags = found.tags
            own |= {"parent": found.name, "parent_files": found.files}
            own["parent_licence"] = found.licence
        own["architecture"] = architecture or tags.get(ARCHITECTURE_TAG, ARCHITECTURE)
        own["encoder"] = encoder or tags.get(ENCODER_TAG, ENCODER)
        return UNet(**shared, **own)

    replace(asked, schedule=schedule).start(UNet.read, make)
