"""Star-convex nuclei: what a network learns of them, from what, and how far off it is.

Schmidt et al. 2018, "Cell Detection with Star-convex Polygons": for every cell of a grid, how deep
it lies in a nucleus, and how far it is from there to the nucleus' outline in 32 directions.
"""

import math
from typing import Any

import numpy as np
import torch
from numba import float32, types, uint16, void
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nuclei.jit import kernel
from training.data.targets import distance
from training.families.networks import DECODER_CHANNELS, build

N_RAYS = 32
GRID_PX = 2
# What the ray of a cell is that leaves the image before it ends.
UNKNOWN = -1.0
RAY_WEIGHT = 0.2
STEP_PX = 0.25
HEAD_CHANNELS = 64
TYPICAL_RADIUS_PX = 10.0

_UINT16_2D = types.Array(uint16, 2, "C", readonly=True)


class _Head(nn.Sequential):
    """Layers whose rays are measured in typical radii: in pixels they would be learned slowly."""

    def forward(self, features: Tensor) -> Tensor:
        for layer in self:
            features = layer(features)
        depth, rays = features[:, :1], features[:, 1:]
        return torch.cat([depth, TYPICAL_RADIUS_PX * (1 + rays)], dim=1)


def build_star_network(encoder: str) -> nn.Module:
    """A U-Net without its last level, and a head for depth and rays; with random weights.

    Args:
        encoder: a name as for `training.families.networks.build`.

    Returns:
        Module: image float32 [N, 3, H, W] in [0, 1], H and W multiples of 32, to float32
        [N, 1 + 32, H / 2, W / 2]: the logit of the depth, and the rays in pixels, of
        `star_targets`.

    Raises:
        InvalidOption: no encoder of that name.
    """
    network: Any = build("unet", encoder)
    network.decoder.blocks = network.decoder.blocks[:-1]
    network.segmentation_head = _Head(
        nn.Conv2d(DECODER_CHANNELS[-2], HEAD_CHANNELS, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(HEAD_CHANNELS, 1 + N_RAYS, 1),
    )
    built: nn.Module = network
    return built


def star_targets(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Targets of one label image.

    A cell of the grid is a square of 2 x 2 pixels; its place is its centre, which turning and
    mirroring an image leaves in place.

    Args:
        labels: uint16 [H, W], 0 is background, H and W even.

    Returns:
        float32 [1 + 32, H / 2, W / 2]: depth, the mean of `targets.distance` in a cell; then the
        distances in pixels from its centre to the end of the nucleus its deepest pixel is of, at
        the angles 2 pi k / 32 from +x towards +y, -1 where the image ends first; 0 in background.
    """
    depth, nucleus = _cells(distance(labels)), _cells(labels)
    deepest = depth.argmax(axis=2)[..., None]
    of_cell = np.ascontiguousarray(np.take_along_axis(nucleus, deepest, axis=2)[..., 0])
    targets = np.zeros((1 + N_RAYS, *of_cell.shape), np.float32)
    targets[0] = depth.mean(axis=2)
    _measure_rays(targets[1:], np.ascontiguousarray(labels), of_cell)
    return targets


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


def _cells(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """[H, W] to [H / 2, W / 2, 4]."""
    height, width = (side // GRID_PX for side in values.shape)
    blocks = values.reshape(height, GRID_PX, width, GRID_PX).swapaxes(1, 2)
    return blocks.reshape(height, width, GRID_PX**2)


@kernel(void(float32[:, :, ::1], _UINT16_2D, _UINT16_2D))
def _measure_rays(
    rays: NDArray[np.float32], labels: NDArray[np.uint16], of_cell: NDArray[np.uint16]
) -> None:
    """Fill rays [R, H / 2, W / 2] of the nuclei that cells are of."""
    height, width = labels.shape
    n_rays = rays.shape[0]
    centre = (GRID_PX - 1) / 2
    for k in range(n_rays):
        dy, dx = math.sin(2 * math.pi * k / n_rays), math.cos(2 * math.pi * k / n_rays)
        for i in range(of_cell.shape[0]):
            for j in range(of_cell.shape[1]):
                nucleus = of_cell[i, j]
                if nucleus == 0:
                    continue
                y0, x0 = GRID_PX * i + centre + 0.5, GRID_PX * j + centre + 0.5
                length = STEP_PX
                while True:
                    y, x = math.floor(y0 + length * dy), math.floor(x0 + length * dx)
                    if y < 0 or y >= height or x < 0 or x >= width:
                        rays[k, i, j] = UNKNOWN
                        break
                    if labels[y, x] != nucleus:
                        rays[k, i, j] = length - STEP_PX / 2
                        break
                    length += STEP_PX
