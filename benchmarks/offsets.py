"""Offsets to the centre of each nucleus in the place of the distance and border maps.

A pixel says where the centre of its nucleus lies; where many say the same, there is a nucleus
(Cheng et al. 2020, Panoptic-DeepLab, sections 3.2 and 3.3, with the votes of the pixels themselves
in the place of a map of centres).
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from markers import OBJECTS, START, Labels, Maps, Options, Way
from numpy.typing import NDArray
from scipy.ndimage import mean as mean_of
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max
from torch import Tensor, nn

from nuclei.postprocessing.probability import LEVELS
from training.families.losses import loss_by_name
from training.families.unet import UNet

# Of what a map can say: from -64 to 64 pixels, in steps of half a pixel.
REACH_PX = 64.0
# A pixel of error costs as much as a sixth of the cross-entropy of a coin.
OFFSETS_WEIGHT = 16.0
# Of objects, the options start as those of a watershed.
AS_WATERSHED = {name: START[name] for name in OBJECTS}
OPTIONS: Options = {**AS_WATERSHED, "smoothing_px": 1.5, "least_distance_px": 3}
GRID = {**OBJECTS, "smoothing_px": (1.0, 1.5, 2.0, 3.0), "least_distance_px": (2, 3, 5, 7)}


@dataclass(frozen=True, kw_only=True)
class Offsets(UNet):
    """A network of the foreground, and of the way down and right to the centre of the nucleus."""

    def targets(self, labels: NDArray[np.uint16]) -> Tensor:
        return torch.from_numpy(offset_maps(labels))

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        logits = network(images).float()
        targets = targets.to(images.device, non_blocking=True)
        inside = targets[:, :1]
        away = (logits[:, 1:].sigmoid() - targets[:, 1:]).abs() * inside
        of_offsets = away.sum() / inside.sum().clamp(min=1)
        loss: Tensor = loss_by_name(self.loss)(logits[:, :1], inside) + OFFSETS_WEIGHT * of_offsets
        return loss


def offset_maps(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Targets of one label image.

    Args:
        labels: uint16 [H, W], 0 is background.

    Returns:
        float32 [3, H, W] in [0, 1]: foreground; the offsets down and right to the mean of the
        nucleus's pixels, where 0.5 is none and 1 is `REACH_PX`; 0.5 on the background.
    """
    maps = np.full((3, *labels.shape), 0.5, np.float32)
    maps[0] = labels > 0
    known = np.unique(labels[labels > 0])
    if len(known):
        for axis, place in enumerate(np.indices(labels.shape), start=1):
            centres = np.zeros(int(known[-1]) + 1)
            centres[known] = mean_of(place, labels, known)
            away = (centres[labels] - place) / (2 * REACH_PX) + 0.5
            maps[axis] = np.where(labels > 0, away.clip(0, 1), 0.5)
    return maps


def voted(maps: Maps, options: Options) -> Labels:
    """Each pixel of the foreground belongs to the most wanted place near the one it points at.

    Args:
        maps: uint8 [3, H, W], as `offset_maps` has them.
        options: as `OPTIONS` has them.

    Returns:
        uint32 [H, W], 0 is background.
    """
    labels = np.zeros(maps.shape[1:], np.uint32)
    inside = np.argwhere(maps[0] >= options["foreground_threshold"] * LEVELS)
    if not len(inside):
        return labels
    away = maps[1:, inside[:, 0], inside[:, 1]].T / LEVELS - 0.5
    wanted = (inside + away * 2 * REACH_PX).clip(0, np.array(labels.shape) - 1)
    votes: Any = np.zeros(labels.shape, np.float32)
    np.add.at(votes, tuple(wanted.round().astype(int).T), 1)
    votes = cv2.GaussianBlur(votes, (0, 0), options["smoothing_px"])
    peaks = peak_local_max(votes, int(options["least_distance_px"]), exclude_border=False)
    _, nearest = cKDTree(peaks).query(wanted)
    sizes = np.bincount(nearest)
    light = maps[0, inside[:, 0], inside[:, 1]] / LEVELS
    scores = np.bincount(nearest, light) / sizes.clip(min=1)
    kept = (sizes >= options["min_area_px"]) & (scores >= options["min_score"])
    labels[tuple(inside.T)] = np.where(kept, kept.cumsum(), 0)[nearest]
    return labels


VOTED = Way(voted, GRID, OPTIONS)
