"""Two networks as one: the mean of a U-Net's maps and a LinkNet's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from training.data.dataset import Sample
from training.engine import TorchEngine
from training.families.trained import joined_progress, shared_options
from training.families.unet import UNet
from training.graphs.maps import export_steps, unet_steps
from training.job import Recipe
from training.optimisation import Progress, Report, Validate, best_network, mixed_precision

# Keeps the logit of a probability of 0 or 1 finite, far closer than the 255 levels of a map.
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


@dataclass(frozen=True, kw_only=True)
class UNetLinkNet(Recipe):
    """The average of a U-Net and a LinkNet that were trained before; it learns nothing itself.

    Attributes:
        unet: folder of the U-Net's training.
        linknet: folder of the LinkNet's.
    """

    unet: Path
    linknet: Path

    family = "unet_linknet"

    @classmethod
    def of(cls, data: Path, unet: Path, linknet: Path, device: str) -> Self:
        """The average of what two trainings gave.

        Args:
            data: the images both were trained on.
            unet, linknet: their folders.
            device: `cuda` or `cpu`.

        Raises:
            InvalidData: a folder is of no such training, or the two held out different images.
        """
        first, second = _read(unet, "unet"), _read(linknet, "linknet")
        return cls(
            **shared_options(first, second, data, device),
            unet=unet.resolve(),
            linknet=linknet.resolve(),
        )

    def contract(self) -> Contract:
        return Contract(self.family, pixel_size_um=self.pixel_size_um)

    def build(self) -> nn.Module:
        return Average([recipe.build() for recipe in self._recipes()])

    def fit(
        self, samples: Sequence[Sample], folder: Path, validate: Validate, report: Report
    ) -> tuple[nn.Module, Progress]:
        """The average of the networks that were trained, and what both trainings took."""
        folders = (self.unet, self.linknet)
        trainings = zip(self._recipes(), folders, strict=True)
        network = Average([best_network(*training) for training in trainings]).eval()
        network.to(self.schedule.device)
        progress = joined_progress(network, folders, validate, report)
        return network.cpu(), progress

    def engine(self, network: nn.Module, contract: Contract, precision: str) -> TorchEngine:
        device = self.schedule.device
        return TorchEngine(network, contract, device, partial(mixed_precision, device, precision))

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_steps(unet_steps(network), folder)

    def tags(self) -> Mapping[str, Any]:
        return {"encoder": "+".join(recipe.encoder for recipe in self._recipes())}

    def _recipes(self) -> tuple[UNet, UNet]:
        return _read(self.unet, "unet"), _read(self.linknet, "linknet")


def _read(folder: Path, architecture: str) -> UNet:
    recipe = UNet.read(folder)
    if recipe.architecture != architecture:
        raise InvalidData(
            f"{folder} is a training of {recipe.architecture}; expected one of {architecture}"
        )
    return recipe
