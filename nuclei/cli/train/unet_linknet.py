"""`nuclei train unet_linknet`."""

from pathlib import Path
from typing import Annotated

import typer

from nuclei.cli.train.common import (
    DataArgument,
    DeviceOption,
    OutOption,
    ResumeOption,
    TrackingUriOption,
    best_device,
    require_training,
    start,
)
from nuclei.errors import InvalidOption

EPILOG = """
**Examples**

nuclei train unet my_images/ --out runs/unet

nuclei train unet my_images/ --architecture linknet --out runs/linknet

nuclei train unet_linknet my_images/ --unet runs/unet --linknet runs/linknet
"""


def unet_linknet(
    data: DataArgument = None,
    unet: Annotated[
        Path | None, typer.Option(help="Folder of a U-Net's training.", show_default=False)
    ] = None,
    linknet: Annotated[
        Path | None, typer.Option(help="Folder of a LinkNet's training.", show_default=False)
    ] = None,
    device: DeviceOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Average the maps of a U-Net and a LinkNet that were trained on the same images.

    The average is tuned and registered as a model of its own; nothing more is trained.
    """
    require_training()
    from training.families.averaging import UNetLinkNet

    def make(images: Path) -> UNetLinkNet:
        if unet is None or linknet is None:
            raise InvalidOption("name the two trainings: --unet RUN --linknet RUN")
        return UNetLinkNet.of(images, unet, linknet, device or best_device())

    start("unet_linknet", UNetLinkNet.read, make, data, out, resume, tracking_uri)
