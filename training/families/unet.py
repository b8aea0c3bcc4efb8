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

from nuclei.inference.contract import Contract
from training.data.targets import MAPS, border_closeness, target_maps
from training.engine import TorchEngine
from training.families.losses import loss_by_name, weighted_bce
from training.families.networks import build
from training.graphs.maps import export_steps, unet_steps
from training.job import LearnedRecipe
from training.optimisation import mixed_precision


@dataclass(frozen=True, kw_only=True)
class UNet(LearnedRecipe):
    """A U-Net, or another architecture that takes its place.

    Attributes:
        architecture: its name (see `networks.build`); the model is registered by it.
        encoder: the name of its encoder.
        loss: a name of `training.families.losses`.
        border_weight: how much more the pixels between two close nuclei weigh in a cross-entropy
            that is added to the loss (w0 of Ronneberger et al. 2015, equation 2, whose own is 10).
    """

    architecture: str = "unet"
    encoder: str = "tu-regnetx_004"
    loss: str = "bce+dice"
    border_weight: float = 0.0

    family = "unet"
    same_kernels = True

    def contract(self) -> Contract:
        return Contract(self.architecture, pixel_size_um=self.pixel_size_um)

    def build(self) -> nn.Module:
        return build(self.architecture, self.encoder)

    def targets(self, labels: NDArray[np.uint16]) -> Tensor:
        maps = target_maps(labels)
        if self.border_weight:
            maps = np.concatenate([maps, border_closeness(labels)[None]])
        return torch.from_numpy(maps)

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        logits = network(images).float()
        targets = targets.to(images.device, non_blocking=True)
        maps, closeness = targets[:, : len(MAPS)], targets[:, len(MAPS) :]
        loss = loss_by_name(self.loss)(logits, maps)
        if self.border_weight:
            loss = loss + self.border_weight * weighted_bce(logits, maps, closeness)
        return loss

    def engine(self, network: nn.Module, contract: Contract, precision: str) -> TorchEngine:
        device = self.schedule.device
        return TorchEngine(network, contract, device, partial(mixed_precision, device, precision))

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_steps(unet_steps(network), folder)

    def tags(self) -> Mapping[str, Any]:
        return {"encoder": self.encoder}
