"""The Mask R-CNN family: detectors of boxes, each with a small mask of its nucleus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.inference.contract import Contract, Method, RenderingParameters
from training.data.targets import nuclei_tensors
from training.detection_engine import DetectionEngine
from training.families.detectors import Detector, build_detector
from training.graphs.detection import export_detector
from training.job import LearnedRecipe
from training.optimisation import mixed_precision
from training.schedule import MASK_RCNN, Schedule

# Half the side of the largest nuclei, as a nucleus is taken from the tile that holds its centre.
HALO_PX = 96


@dataclass(frozen=True, kw_only=True)
class MaskRCNN(LearnedRecipe):
    """A Mask R-CNN.

    Attributes:
        backbone: its name (see `training.families.detectors.ARCHITECTURES`).
    """

    backbone: str = "resnet18"
    schedule: Schedule = field(default_factory=lambda: MASK_RCNN)

    family = "mask_rcnn"

    def contract(self) -> Contract:
        return Contract(
            self.family,
            Method.MASKS,
            maps=(),
            halo=HALO_PX,
            pixel_size_um=self.pixel_size_um,
            postprocessing=RenderingParameters(),
        )

    def build(self) -> Detector:
        return build_detector(self.backbone)

    def targets(self, labels: NDArray[np.uint16]) -> dict[str, Tensor]:
        return nuclei_tensors(labels)

    def loss_of(
        self, network: nn.Module, images: Tensor, targets: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        assert isinstance(network, Detector)
        device = images.device
        losses = network.losses(images, [_with_masks(target, device) for target in targets])
        return torch.stack(list(losses.values())).sum()

    def engine(self, network: nn.Module, contract: Contract, precision: str) -> DetectionEngine:
        device = self.schedule.device
        precision_context = partial(mixed_precision, device, precision)
        return DetectionEngine(network, contract, device, precision_context)

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        return export_detector(network, folder)

    def tags(self) -> Mapping[str, Any]:
        return {"backbone": self.backbone}


def _with_masks(target: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """As `training.families.detectors.Detector.losses` takes it; masks are made on the device."""
    parts, boxes = target["parts"].to(device), target["boxes"].to(device)
    numbers = torch.arange(1, len(boxes) + 1, device=device)
    return {
        "boxes": boxes,
        "labels": torch.ones_like(numbers),
        "masks": (parts == numbers[:, None, None]).to(torch.uint8),
    }
