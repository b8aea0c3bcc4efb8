"""Mask R-CNN from torchvision's parts, adapted to nuclei: hundreds in an image, all small."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, mobilenet_v3_large
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import resnet18, resnet50
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from nuclei.errors import InvalidOption
from nuclei.quoting import quoted
from training.families.detectors import DetectorRecipe, boxes_and_masks
from training.graphs.views import LEVELS, three_channels, to_uint8
from training.schedule import MASK_RCNN, Schedule

# One size for each level of the feature pyramid, strides 4 to 64.
ANCHORS_PX = (8, 16, 32, 64, 128)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
MAX_DETECTIONS = 500
POOLED_PX = 7


@dataclass(frozen=True)
class Architecture:
    """A backbone, and heads sized to match it.

    Attributes:
        backbone: makes it, with random weights.
        levels: its layers with the strides 4, 8, 16, 32, and the channels of each.
        channels: of the feature pyramid and the convolutions of the heads.
        proposal_convolutions, box_convolutions, mask_convolutions: of the heads.
        hidden: width of the layer that boxes are classified from.
        proposals: sampled from each training image.
    """

    backbone: Callable[[], nn.Module]
    levels: Mapping[str, int]
    channels: int
    proposal_convolutions: int
    box_convolutions: int
    mask_convolutions: int
    hidden: int
    proposals: int


# The first is torchvision's maskrcnn_resnet50_fpn_v2 (Li et al. 2021).
ARCHITECTURES: dict[str, Architecture] = {
    "resnet50_fpn_v2": Architecture(
        lambda: resnet50(weights=None, norm_layer=nn.BatchNorm2d),
        {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048},
        channels=256,
        proposal_convolutions=2,
        box_convolutions=4,
        mask_convolutions=4,
        hidden=1024,
        proposals=512,
    ),
    "resnet18": Architecture(
        lambda: resnet18(weights=None, norm_layer=nn.BatchNorm2d),
        {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512},
        channels=128,
        proposal_convolutions=1,
        box_convolutions=1,
        mask_convolutions=4,
        hidden=512,
        proposals=256,
    ),
    "mobilenet_v3": Architecture(
        lambda: mobilenet_v3_large(weights=None, norm_layer=nn.BatchNorm2d).features,
        {"3": 24, "6": 40, "12": 112, "15": 160},
        channels=64,
        proposal_convolutions=1,
        box_convolutions=0,
        mask_convolutions=2,
        hidden=256,
        proposals=256,
    ),
}


class Detector(nn.Module):
    """A Mask R-CNN (He et al. 2017) with one class, the nucleus.

    Images are taken at their own size. Convolutions may run in mixed precision, all else float32:
    bf16 has 8 significant bits, too few for a coordinate.
    """

    def __init__(self, network: detection.MaskRCNN) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = network.backbone, network.rpn, network.roi_heads
        heads = self.roi_heads
        for part in (
            *(self.backbone, self.rpn.head, heads.box_head, heads.box_predictor),
            *(heads.mask_head, heads.mask_predictor),
        ):
            part.register_forward_hook(_in_float32)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A detector's outputs, as `training.graphs.detections` defines them."""
        (found,), _ = self._run(three_channels(image), None)
        boxes = found["boxes"].index_select(1, torch.tensor([1, 0, 3, 2], device=image.device))
        return boxes, found["scores"], to_uint8(found["masks"][:, 0] * LEVELS)

    def losses(self, images: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The losses of the proposals, the boxes and the masks, scalars.

        Args:
            images: float32 [N, 3, H, W] in [0, 1].
            targets: of each image, on its device: boxes float32 [K, 4] (x0, y0, x1, y1), labels
                int64 [K], which are 1, masks uint8 [K, H, W].
        """
        return self._run(images, [dict(target) for target in targets])[1]

    def _run(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        features = self.backbone(images)
        sizes = [(images.shape[2], images.shape[3])] * images.shape[0]
        proposals, of_proposals = self.rpn(ImageList(images, sizes), features, targets)
        found, of_heads = self.roi_heads(features, proposals, sizes, targets)
        return found, {**of_proposals, **of_heads}


def build_detector(architecture: str) -> Detector:
    """A Mask R-CNN with random weights.

    Args:
        architecture: a name of `ARCHITECTURES`.

    Raises:
        InvalidOption: the architecture is unknown.
    """
    try:
        parts = ARCHITECTURES[architecture]
    except KeyError as error:
        raise InvalidOption(
            f"architecture {quoted(architecture)} is unknown; expected one of "
            f"{', '.join(ARCHITECTURES)}"
        ) from error
    channels, norm = parts.channels, nn.BatchNorm2d
    pyramid = BackboneWithFPN(
        parts.backbone(),
        {layer: str(level) for level, layer in enumerate(parts.levels)},
        list(parts.levels.values()),
        channels,
        LastLevelMaxPool(),
        norm,
    )
    anchors = AnchorGenerator(
        tuple((size,) for size in ANCHORS_PX), (ASPECT_RATIOS,) * len(ANCHORS_PX)
    )
    network = detection.MaskRCNN(
        pyramid,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, len(ASPECT_RATIOS), parts.proposal_convolutions),
        rpn_pre_nms_top_n_train=2000,
        rpn_pre_nms_top_n_test=2000,
        rpn_post_nms_top_n_train=1000,
        rpn_post_nms_top_n_test=1000,
        box_head=FastRCNNConvFCHead(
            (channels, POOLED_PX, POOLED_PX),
            [channels] * parts.box_convolutions,
            [parts.hidden],
            norm,
        ),
        box_predictor=FastRCNNPredictor(parts.hidden, 2),
        box_detections_per_img=MAX_DETECTIONS,
        box_batch_size_per_image=parts.proposals,
        mask_head=MaskRCNNHeads(channels, [channels] * parts.mask_convolutions, 1, norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, 2),
    )
    return Detector(network)


@dataclass(frozen=True, kw_only=True)
class MaskRCNN(DetectorRecipe):
    """A Mask R-CNN.

    Attributes:
        backbone: its name (see `ARCHITECTURES`).
    """

    backbone: str = "resnet18"
    schedule: Schedule = field(default_factory=lambda: MASK_RCNN)

    family = "mask_rcnn"

    def build(self) -> Detector:
        return build_detector(self.backbone)

    def loss_of(
        self, network: nn.Module, images: Tensor, targets: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        assert isinstance(network, Detector)
        device = images.device
        losses = network.losses(images, [_with_masks(target, device) for target in targets])
        return torch.stack(list(losses.values())).sum()

    def tags(self) -> Mapping[str, Any]:
        return {"backbone": self.backbone}


def _in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A forward hook."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return OrderedDict((name, value.float()) for name, value in output.items())
    return type(output)(_in_float32(module, inputs, part) for part in output)


def _with_masks(target: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """One image's target for `Detector.losses`; masks are made on the device."""
    boxes, masks = boxes_and_masks(target, device)
    labels = torch.ones(len(boxes), dtype=torch.int64, device=device)
    return {"boxes": boxes, "labels": labels, "masks": masks.to(torch.uint8)}
