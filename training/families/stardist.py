"""StarDist: a network that gives star-convex nuclei (Schmidt et al. 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.inference.contract import Contract, Method, RenderingParameters
from training.families.stars import build_star_network, star_loss, star_targets
from training.graphs.maps import export_steps
from training.graphs.stars import StarEngine, star_steps
from training.job import LearnedRecipe
from training.optimisation import mixed_precision

# Half of a large nucleus.
HALO_PX = 96


@dataclass(frozen=True, kw_only=True)
class StarDist(LearnedRecipe):
    """StarDist on the encoder and decoder of the U-Net.

    Attributes:
        encoder: its name (see `training.families.networks.build`).
    """

    encoder: str = "tu-regnetx_004"

    family = "stardist"
    same_kernels = True

    def contract(self) -> Contract:
        return Contract(
            self.family,
            Method.STARS,
            maps=(),
            halo=HALO_PX,
            pixel_size_um=self.pixel_size_um,
            postprocessing=RenderingParameters(),
        )

    def build(self) -> nn.Module:
        return build_star_network(self.encoder)

    def targets(self, labels: NDArray[np.uint16]) -> Tensor:
        return torch.from_numpy(star_targets(labels))

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return star_loss(network(images).float(), targets.to(images.device, non_blocking=True))

    def engine(self, network: nn.Module, contract: Contract, precision: str) -> StarEngine:
        device = self.schedule.device
        return StarEngine(network, contract, device, partial(mixed_precision, device, precision))

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_steps(star_steps(network), folder)

    def tags(self) -> Mapping[str, Any]:
        return {"encoder": self.encoder}
