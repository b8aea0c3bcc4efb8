"""An ensemble of a U-Net and a LinkNet: the mean of their maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from nuclei.registry import ENCODER_TAG
from training.families.ensembles import EnsembleRecipe
from training.families.unet import UNet
from training.graphs.kinds import ByKind
from training.graphs.maps import map_modules, map_steps
from training.graphs.step import export_steps

# Keeps the logits of 0 and 1 finite; far smaller than one of the 255 levels of a map.
EPSILON = 1e-6


class Average(nn.Module):
    """The mean of the probabilities of several networks, as logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Take networks from image float32 [N, 3, H, W] to logits float32 [N, K, H, W]."""
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        maps = [torch.sigmoid(network(image).float()) for network in self.networks]
        return torch.logit(torch.stack(maps).mean(dim=0), eps=EPSILON)


def _read(architecture: str, folder: Path) -> UNet:
    recipe = UNet.read(folder)
    if recipe.architecture != architecture:
        raise InvalidData(
            f"{folder} is a training of {recipe.architecture}; expected one of {architecture}"
        )
    return recipe


@dataclass(frozen=True, kw_only=True)
class UNetLinkNet(EnsembleRecipe):
    """The average of a U-Net and a LinkNet.

    Attributes:
        unet: folder of the U-Net's training.
        linknet: folder of the LinkNet's.
    """

    unet: Path
    linknet: Path

    family = "unet_linknet"
    members: ClassVar = {name: partial(_read, name) for name in ("unet", "linknet")}

    def contract(self) -> Contract:
        return Contract(self.family, pixel_size_um=self.pixel_size_um)

    def combine(self, networks: Sequence[nn.Module]) -> Average:
        if any(isinstance(network, ByKind) for network in networks):
            raise InvalidData(
                "a member has a network for grey images and another for those in colour, which are "
                "not averaged; expected members that were trained without --keep"
            )
        return Average(networks)

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        return map_modules(network)

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_steps(map_steps(network), folder)

    def tags(self) -> Mapping[str, Any]:
        return {ENCODER_TAG: "+".join(recipe.tags()[ENCODER_TAG] for recipe in self.recipes())}
