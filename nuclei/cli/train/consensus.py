"""`nuclei train consensus`."""

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

nuclei train mask_rcnn my_images/ --out runs/mask_rcnn

nuclei train consensus my_images/ --unet runs/unet --mask-rcnn runs/mask_rcnn
"""


def consensus(
    data: DataArgument = None,
    unet: Annotated[
        Path | None, typer.Option(help="Folder of a U-Net's training.", show_default=False)
    ] = None,
    mask_rcnn: Annotated[
        Path | None, typer.Option(help="Folder of a Mask R-CNN's training.", show_default=False)
    ] = None,
    device: DeviceOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Let a U-Net and a Mask R-CNN that were trained on the same images vote on every nucleus.

    The vote is tuned and registered as a model of its own; nothing more is trained.
    """
    require_training()
    from training.families.consensus import Consensus

    def make(images: Path) -> Consensus:
        if unet is None or mask_rcnn is None:
            raise InvalidOption("name the two trainings: --unet RUN --mask-rcnn RUN")
        return Consensus.of(images, unet, mask_rcnn, device or best_device())

    start("consensus", Consensus.read, make, data, out, resume, tracking_uri)
