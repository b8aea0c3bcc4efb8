"""`nuclei train unet_linknet` and `nuclei train consensus`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclei.cli.train.options import (
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
from training.schedule import Schedule

if TYPE_CHECKING:
    from training.families.ensembles import EnsembleRecipe

UNET_LINKNET_EPILOG = """
**Examples**

nuclei train unet my_images/ --out runs/unet

nuclei train unet my_images/ --architecture linknet --out runs/linknet

nuclei train unet_linknet my_images/ --unet runs/unet --linknet runs/linknet
"""

CONSENSUS_EPILOG = """
**Examples**

nuclei train unet my_images/ --out runs/unet

nuclei train mask_rcnn my_images/ --out runs/mask_rcnn

nuclei train consensus my_images/ --unet runs/unet --mask-rcnn runs/mask_rcnn
"""

UNetOption = Annotated[
    Path | None, typer.Option(help="Folder of a U-Net's training.", show_default=False)
]


def unet_linknet(
    data: DataArgument = None,
    unet: UNetOption = None,
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
    from training.families.unet_linknet import UNetLinkNet

    members = {"unet": unet, "linknet": linknet}
    _start(UNetLinkNet, members, device, data, out, resume, tracking_uri)


def consensus(
    data: DataArgument = None,
    unet: UNetOption = None,
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

    members = {"unet": unet, "mask_rcnn": mask_rcnn}
    _start(Consensus, members, device, data, out, resume, tracking_uri)


def _start(
    ensemble: "type[EnsembleRecipe]",
    members: Mapping[str, Path | None],
    device: str | None,
    data: list[Path] | None,
    out: Path | None,
    resume: Path | None,
    tracking_uri: str | None,
) -> None:
    schedule = Schedule(device=device or best_device())

    def make(images: tuple[Path, ...]) -> "EnsembleRecipe":
        folders = {name: folder for name, folder in members.items() if folder is not None}
        if len(folders) < len(members):
            options = " ".join(f"--{name.replace('_', '-')} RUN" for name in members)
            raise InvalidOption(f"name the two trainings: {options}")
        return ensemble.of(images, folders, schedule.device)

    start(ensemble.family, ensemble.read, make, schedule, device, data, out, resume, tracking_uri)
