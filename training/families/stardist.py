"""StarDist: a network that gives star-convex nuclei (Schmidt et al. 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nuclei.inference.contract import Contract
from nuclei.inference.method import STARS
from nuclei.postprocessing.rendering import RenderingParameters
from nuclei.registry import ENCODER_TAG
from training.data.stars import N_RAYS, star_targets
from training.families.unet import DECODER_CHANNELS, build_network
from training.graphs.stars import star_modules, star_steps
from training.graphs.step import export_steps
from training.job import LearnedRecipe

# Half the side of a large nucleus.
HALO_PX = 96
RAY_WEIGHT = 0.2
HEAD_CHANNELS = 64
TYPICAL_RADIUS_PX = 10.0


@dataclass(frozen=True, kw_only=True)
class StarDist(LearnedRecipe):
    """StarDist on the encoder and decoder of the U-Net.

    Attributes:
        encoder: its name (see `training.families.unet.build_network`).
    """

    encoder: str = "tu-regnetx_004"

    family = "stardist"
    captures_graph = True

    def contract(self) -> Contract:
        return Contract(
            self.family,
            STARS,
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

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        return star_modules(network)

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_steps(star_steps(network), folder)

    def tags(self) -> Mapping[str, Any]:
        return {ENCODER_TAG: self.encoder}


class _Head(nn.Sequential):
    """Layers whose rays are in units of a typical radius: in pixels they would learn slowly."""

    def forward(self, features: Tensor) -> Tensor:
        for layer in self:
            features = layer(features)
        depth, rays = features[:, :1], features[:, 1:]
        return torch.cat([depth, TYPICAL_RADIUS_PX * (1 + rays)], dim=1)


def build_star_network(encoder: str) -> nn.Module:
    """A U-Net without its last level, and a head for depth and rays; with random weights.

    Args:
        encoder: a name as for `training.families.unet.build_network`.

    Returns:
        Module: image float32 [N, 3, H, W] in [0, 1], H and W multiples of 32, to float32
        [N, 1 + 32, H / 2, W / 2]: the logit of the depth, and the rays in pixels, of
        `star_targets`.

    Raises:
        InvalidOption: the encoder is unknown.
    """
    network: Any = build_network("unet", encoder)
    network.decoder.blocks = network.decoder.blocks[:-1]
    network.segmentation_head = _Head(
        nn.Conv2d(DECODER_CHANNELS[-2], HEAD_CHANNELS, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(HEAD_CHANNELS, 1 + N_RAYS, 1),
    )
    built: nn.Module = network
    return built


def star_loss(answers: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the depth, and error of the rays weighted by depth (section 2).

    Args:
        answers: float32 [N, 1 + 32, h, w] of a network of `build_star_network`.
        targets: float32 [N, 1 + 32, h, w], as `star_targets`.
    """
    depth, rays = targets[:, :1], targets[:, 1:]
    weights = depth * (rays >= 0)
    missed = (weights * (answers[:, 1:] - rays).abs()).sum() / weights.sum().clamp(min=1)
    return functional.binary_cross_entropy_with_logits(answers[:, :1], depth) + RAY_WEIGHT * missed
