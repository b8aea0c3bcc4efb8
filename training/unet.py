"""The U-Net and its kin: networks that give maps of the whole image, for a watershed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.contract import Contract
from training.engine import TorchEngine
from training.graphs import export_steps, unet_steps
from training.job import Recipe
from training.losses import loss_by_name
from training.networks import build
from training.optimisation import mixed_precision
from training.targets import target_maps


@dataclass(frozen=True, kw_only=True)
class UNet(Recipe):
    """A U-Net, or another architecture that takes its place.

    Attributes:
        architecture: its name (see `training.networks.build`); the model is registered by it.
        encoder: the name of its encoder.
        loss: a name of `training.losses`.
    """

    architecture: str = "unet"
    encoder: str = "tu-regnetx_004"
    loss: str = "bce+dice"

    family = "unet"

    def contract(self) -> Contract:
        return Contract(self.architecture, pixel_size_um=self.pixel_size_um)

    def build(self) -> nn.Module:
        return build(self.architecture, self.encoder)

    def targets(self, labels: NDArray[np.uint16]) -> Tensor:
        return torch.from_numpy(target_maps(labels))

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        logits = network(images).float()
        return loss_by_name(self.loss)(logits, targets.to(images.device, non_blocking=True))

    def engine(self, network: nn.Module, contract: Contract, precision: str) -> TorchEngine:
        device = self.schedule.device
        return TorchEngine(network, contract, device, partial(mixed_precision, device, precision))

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_steps(unet_steps(network), folder)

    def tags(self) -> Mapping[str, Any]:
        return {"encoder": self.encoder}
