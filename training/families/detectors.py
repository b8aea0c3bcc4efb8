"""The common part of all detector recipes: training targets and the exported graph."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.inference.contract import Contract
from nuclei.inference.graph import MASK_NETWORK
from nuclei.inference.method import MASKS
from nuclei.postprocessing.rendering import RenderingParameters
from training.data.targets import nuclei_tensors
from training.graphs.detections import detector_steps, view_modules
from training.graphs.step import export_steps
from training.job import LearnedRecipe

# Half the side of the largest nuclei: a nucleus is taken from the tile that holds its centre.
HALO_PX = 96


class DetectorRecipe(LearnedRecipe):
    """The recipe of a network that finds boxes, each with a small mask of its nucleus."""

    def contract(self) -> Contract:
        return Contract(
            self.family,
            MASKS,
            maps=(),
            halo=HALO_PX,
            pixel_size_um=self.pixel_size_um,
            postprocessing=RenderingParameters(),
        )

    def targets(self, labels: NDArray[np.uint16]) -> dict[str, Tensor]:
        return nuclei_tensors(labels)

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        return {**view_modules(), MASK_NETWORK.name: network}

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_steps(detector_steps(network), folder)


def boxes_and_masks(target: Mapping[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """The nuclei of a crop, from `training.data.targets.nuclei_tensors`; masks made on the device.

    Returns:
        boxes float32 [K, 4] (x0, y0, x1, y1), pixels, and masks bool [K, S, S].
    """
    parts, boxes = target["parts"].to(device), target["boxes"].to(device)
    numbers = torch.arange(1, len(boxes) + 1, device=device)
    return boxes, parts == numbers[:, None, None]
