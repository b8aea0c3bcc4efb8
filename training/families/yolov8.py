"""The YOLOv8 family: a detector in one pass, whose masks are mixed from prototypes.

The network and its loss are those of ultralytics, which is AGPL-3.0 and optional: nothing else
imports it, and its licence is noted on each model version. Data, training, decoding and graphs are
ours, as in every family.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms, roi_align

from nuclei.errors import InvalidOption, MissingPrerequisite
from nuclei.quoting import quoted
from training.families.detectors import DetectorRecipe, boxes_and_masks
from training.graphs.views import LEVELS, three_channels, to_uint8
from training.schedule import YOLOV8, Schedule

SIZES = ("n", "s", "m", "l", "x")
LICENCE = "AGPL-3.0"
# Pixels of the enlarged image to a cell of each level, and to a pixel of the prototypes.
STRIDES = (8, 16, 32)
PROTOTYPE_STRIDE = 4
# Distances of a box's sides from a cell's centre, in cells: a distribution over 0, 1, ... 15.
REACH = 16
MASK_PX = 28
# Pixels of the image to a pixel of the masks it is trained on.
TRUTH_STRIDE = 2
MIN_SCORE = 0.05
SAME_NUCLEUS_IOU = 0.6
MAX_DETECTIONS = 1000
# The weights of the loss's parts in ultralytics, and a separate image for each mask.
LOSS = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=False)


class Detector(nn.Module):
    """A YOLOv8-seg network with one class, the nucleus.

    It sees the image enlarged: the network was made for things larger than nuclei, and its masks
    have a quarter of its image's resolution. Convolutions may run in mixed precision, all else
    float32: bf16 has 8 significant bits, too few for a coordinate.
    """

    # A network of ultralytics, which has no types.
    network: Any

    def __init__(self, network: nn.Module, zoom: int) -> None:
        super().__init__()
        self.network = network
        self._zoom = zoom

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        # Always return the head's raw outputs, not yet decoded.
        self.network.model[-1].training = True
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A detector's outputs, as `training.graphs.detections` defines them."""
        raw = self._raw(three_channels(image))
        with torch.autocast(image.device.type, enabled=False):
            scores = torch.sigmoid(raw["scores"][0, 0])
            sure = (scores > MIN_SCORE).nonzero()[:, 0]
            boxes = _boxes(raw)[sure]
            kept = nms(boxes, scores[sure], SAME_NUCLEUS_IOU)[:MAX_DETECTIONS]
            sure, boxes = sure[kept], boxes[kept]
            masks = _masks(raw["proto"], raw["mask_coefficient"][0, :, sure], boxes)
            upright = boxes.index_select(1, torch.tensor([1, 0, 3, 2], device=boxes.device))
            return upright / self._zoom, scores[sure], to_uint8(masks * LEVELS)

    def loss(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Box, mask and class losses, weighted and added, a scalar.

        Args:
            images: float32 [N, 3, S, S] in [0, 1].
            targets: of each image, on its device: boxes float32 [K, 4] (x0, y0, x1, y1), pixels;
                masks float32 [K, S / 2, S / 2], the part of each square that the nucleus covers.
        """
        raw = self._raw(images)
        counts = torch.tensor([len(target["boxes"]) for target in targets], device=images.device)
        boxes = torch.cat([target["boxes"] for target in targets]) / images.shape[-1]
        corners, opposite = boxes[:, :2], boxes[:, 2:]
        truth = {
            "batch_idx": torch.arange(len(targets), device=images.device).repeat_interleave(counts),
            "cls": boxes.new_zeros(len(boxes), 1),
            "bboxes": torch.cat([(corners + opposite) / 2, opposite - corners], dim=1),
            "masks": torch.cat([target["masks"] for target in targets]),
        }
        with torch.autocast(images.device.type, enabled=False):
            criterion = _ultralytics("utils.loss").v8SegmentationLoss(self.network)
            # Sums over the batch.
            parts: Tensor = criterion(raw, truth)[0]
        return parts.sum() / len(targets)

    def _raw(self, images: Tensor) -> dict[str, Any]:
        """The head's raw outputs for the enlarged images of H x W pixels, float32.

        boxes [N, 4 * 16, A] for the A cells of all levels, scores [N, 1, A],
        mask_coefficient [N, 32, A], proto [N, 32, H / 4, W / 4], feats: features of each level.
        """
        enlarged = functional.interpolate(images, scale_factor=self._zoom, mode="bilinear")
        raw = self.network(enlarged)
        return {
            name: value.float() if isinstance(value, Tensor) else [level.float() for level in value]
            for name, value in raw.items()
        }


def build_detector(size: str, zoom: int) -> Detector:
    """A YOLOv8-seg network with random weights.

    Args:
        size: `n`, `s`, `m`, `l` or `x`, from 3 to 72 million parameters.
        zoom: how many times images are enlarged for it.

    Raises:
        InvalidOption: the size is unknown.
        MissingPrerequisite: ultralytics is not installed.
    """
    if size not in SIZES:
        raise InvalidOption(f"size {quoted(size)} is unknown; expected one of {', '.join(SIZES)}")
    network = _ultralytics("nn.tasks").SegmentationModel(
        f"yolov8{size}-seg.yaml", ch=3, nc=1, verbose=False
    )
    network.args = LOSS
    return Detector(network, zoom).train()


@dataclass(frozen=True, kw_only=True)
class YoloV8(DetectorRecipe):
    """A YOLOv8 with masks.

    Attributes:
        size: `n`, `s`, `m`, `l` or `x`.
        zoom: how many times images are enlarged for the network.
    """

    size: str = "s"
    zoom: int = 2
    schedule: Schedule = field(default_factory=lambda: YOLOV8)

    family = "yolov8"

    def build(self) -> Detector:
        return build_detector(self.size, self.zoom)

    def loss_of(
        self, network: nn.Module, images: Tensor, targets: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        assert isinstance(network, Detector)
        return network.loss(images, [_with_masks(target, images.device) for target in targets])

    def tags(self) -> Mapping[str, Any]:
        return {"size": self.size}

    def code_licences(self) -> frozenset[str]:
        return frozenset({LICENCE})


def require_ultralytics() -> None:
    """Raise MissingPrerequisite if ultralytics is not installed."""
    _ultralytics("nn.tasks")


def _boxes(raw: Mapping[str, Any]) -> Tensor:
    """Boxes [A, 4] (x0, y0, x1, y1) of one image, pixels of the enlarged image.

    A cell gives a distribution of the distance of each side from its centre; its mean is used (Li
    et al. 2020, Generalized Focal Loss, equation 3).
    """
    levels = [
        torch.stack([ones.cumsum(1), ones.cumsum(0), 1 / (ones * stride)]).flatten(1)
        for stride, ones in zip(
            STRIDES, (torch.ones_like(level[0, 0]) for level in raw["feats"]), strict=True
        )
    ]
    x, y, per_px = torch.cat(levels, dim=1)
    likely = raw["boxes"][0].unflatten(0, (4, REACH)).softmax(dim=1)
    places = torch.arange(REACH, device=likely.device, dtype=likely.dtype)
    left, top, right, bottom = (likely * places[:, None]).sum(dim=1)
    sides = [x - 0.5 - left, y - 0.5 - top, x - 0.5 + right, y - 0.5 + bottom]
    boxes: Tensor = torch.stack(sides) / per_px
    return boxes.T


def _masks(prototypes: Tensor, coefficients: Tensor, boxes: Tensor) -> Tensor:
    """Probabilities [N, 28, 28] at the centres of a grid over each box.

    Args:
        prototypes: [1, P, H / 4, W / 4].
        coefficients: [P, N].
        boxes: [N, 4], (x0, y0, x1, y1), pixels of the enlarged image.
    """
    within = roi_align(
        prototypes,
        [boxes],
        MASK_PX,
        spatial_scale=1 / PROTOTYPE_STRIDE,
        sampling_ratio=1,
        aligned=True,
    )
    return torch.sigmoid((within * coefficients.T[:, :, None, None]).sum(dim=1))


def _with_masks(target: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """One image's target for `Detector.loss`; masks are made on the device."""
    boxes, masks = boxes_and_masks(target, device)
    shares = functional.avg_pool2d(masks[:, None].float(), TRUTH_STRIDE)[:, 0]
    return {"boxes": boxes, "masks": shares}


def _ultralytics(module: str) -> Any:
    """A module of ultralytics, prevented from installing, downloading or reporting anything."""
    os.environ |= {name: "false" for name in ("YOLO_AUTOINSTALL", "YOLO_VERBOSE")}
    os.environ["YOLO_OFFLINE"] = "true"
    try:
        return import_module(f"ultralytics.{module}")
    except ImportError as error:
        raise MissingPrerequisite(
            f"YOLOv8 needs ultralytics, which is optional for its licence ({LICENCE}): run "
            "`pip install 'nuclei-serving[yolov8]'`, or `make yolov8-env` and "
            ".venv-train/bin/nuclei"
        ) from error
