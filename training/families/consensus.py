"""An ensemble of a U-Net and a Mask R-CNN, which vote on every nucleus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from nuclei.inference.contract import Contract
from nuclei.inference.graph import DETECTOR
from nuclei.inference.method import CONSENSUS
from nuclei.postprocessing.consensus import ConsensusParameters
from training.families.detectors import HALO_PX
from training.families.ensembles import EnsembleRecipe
from training.families.mask_rcnn import MaskRCNN
from training.families.unet import UNet
from training.graphs.detections import detector_steps, view_modules
from training.graphs.maps import map_modules, map_steps
from training.graphs.step import export_steps


class Pair(nn.Module):
    """A network that gives maps and a detector, side by side."""

    def __init__(self, unet: nn.Module, mask_rcnn: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.mask_rcnn = mask_rcnn


@dataclass(frozen=True, kw_only=True)
class Consensus(EnsembleRecipe):
    """The vote of a U-Net and a Mask R-CNN.

    Attributes:
        unet: folder of the U-Net's training.
        mask_rcnn: folder of the Mask R-CNN's.
    """

    unet: Path
    mask_rcnn: Path

    family = "consensus"
    members: ClassVar = {"unet": UNet.read, "mask_rcnn": MaskRCNN.read}

    def contract(self) -> Contract:
        return Contract(
            self.family,
            CONSENSUS,
            halo=HALO_PX,
            pixel_size_um=self.pixel_size_um,
            postprocessing=ConsensusParameters(),
        )

    def combine(self, networks: Sequence[nn.Module]) -> Pair:
        return Pair(*networks)

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        assert isinstance(network, Pair)
        return {**map_modules(network.unet), **view_modules(), DETECTOR.name: network.mask_rcnn}

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(network, Pair)
        steps = {**detector_steps(network.mask_rcnn, DETECTOR), **map_steps(network.unet)}
        return export_steps(steps, folder)

    def tags(self) -> Mapping[str, Any]:
        first, second = self.recipes()
        return {**first.tags(), **second.tags()}
