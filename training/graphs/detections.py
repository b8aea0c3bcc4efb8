"""The steps of a detector's graph as torch modules.

A detector is a module that finds the nuclei of one image: IMAGE float32 [1, C, H, W] in [0, 1], C 1
or 3, H and W multiples of its stride, to

    BOXES   float32 [N, 4], (y0, x0, y1, x1), pixels of the image
    SCORES  float32 [N], in [0, 1]
    MASKS   uint8 [N, M, M], stretched over the boxes, 255 is probability 1
"""

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from nuclei.inference.graph import (
    FOUND_MASKS,
    IMAGE,
    MASK_NETWORK,
    MERGE_MASKS,
    PREPROCESS,
    SPLIT,
    TTA_VIEWS,
    StepFile,
    of_views,
)
from training.graphs.step import GraphStep, TracedStep
from training.graphs.views import Preprocess, Split, preprocess_step, quarter_turns, to_uint8

SAME_NUCLEUS_IOU = 0.5
EXAMPLE_PX = 128
EXAMPLE_NUCLEI = 20


class MergeMasks(nn.Module):
    """What a detector found in the eight views, each nucleus once.

    Weighted boxes fusion (Solovyev et al. 2021, section 3), for masks as for boxes: detections that
    overlap one of a higher score by an IoU above one half are the same nucleus. Its box and mask
    are the means weighted by score. Its score is the mean over the views of the highest score
    there, 0 in a view without a detection.
    """

    def forward(self, side: Tensor, *found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Merge.

        Args:
            side: int64 [1], of the image, pixels.
            found: BOXES, SCORES and MASKS of each view, in the order of `Split`.

        Returns:
            BOXES, SCORES and MASKS.
        """
        boxes = [_turned_back(found[3 * k], side, k) for k in range(TTA_VIEWS)]
        masks = [_masks_turned_back(found[3 * k + 2], k).flatten(1) for k in range(TTA_VIEWS)]
        scores = found[1::3]
        # The last box lies outside the image, with a score of 0, so that no tensor is ever empty.
        of_all = torch.cat([*boxes, boxes[0].new_tensor([[-2.0, -2.0, -1.0, -1.0]])])
        kept = nms(of_all, torch.cat([*scores, scores[0].new_zeros(1)]), SAME_NUCLEUS_IOU)
        nuclei = of_all[kept]
        sums = total = merged = nuclei.new_zeros(1)
        for of_view, sure, shown in zip(boxes, scores, masks, strict=True):
            weights = _weights(nuclei, of_view, sure)
            total = total + weights.sum(dim=1)
            sums = sums + weights @ torch.cat([of_view, shown], dim=1)
            # A view may show a nucleus twice, or not at all.
            merged = merged + torch.cat([weights, torch.zeros_like(nuclei)], dim=1).amax(dim=1)
        means = sums[:-1] / total[:-1, None]
        side_px = found[2].shape[1]
        merged_masks = to_uint8(means[:, 4:]).reshape(-1, side_px, side_px)
        return means[:, :4], merged[:-1] / TTA_VIEWS, merged_masks


def view_modules() -> dict[str, nn.Module]:
    """The modules around a detector by step."""
    return {PREPROCESS.name: Preprocess(), SPLIT.name: Split(), MERGE_MASKS.name: MergeMasks()}


def detector_steps(detector: nn.Module, file: StepFile = MASK_NETWORK) -> dict[str, GraphStep]:
    """The steps of the graph by file name.

    Args:
        detector: in evaluation mode, float32, on the CPU.
        file: of the detector's own step.
    """
    axes = {1: "channels", 2: "height", 3: "width"}
    dynamic = {IMAGE: axes, **{tensor: {0: "nuclei"} for tensor in FOUND_MASKS}}
    own = TracedStep(file, detector, (example_image(),), dynamic)
    return {**view_steps(detector), file.name: own}


def example_image() -> Tensor:
    """Blurred bright discs, float32 [1, 3, 128, 128]."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(EXAMPLE_NUCLEI, 2, 1, 1, generator=generator) * EXAMPLE_PX
    radii = 4 + 6 * torch.rand(EXAMPLE_NUCLEI, 1, 1, generator=generator)
    place = torch.arange(EXAMPLE_PX)
    distance = torch.hypot(place[:, None] - centres[:, 0], place - centres[:, 1])
    return torch.sigmoid(radii - distance).amax(dim=0).expand(1, 3, -1, -1)


def view_steps(detector: nn.Module) -> dict[str, GraphStep]:
    """The steps around a detector by file name.

    Args:
        detector: in evaluation mode, float32, on the CPU.
    """
    image = example_image()
    square = {1: "channels", 2: "side", 3: "side"}
    with torch.inference_mode():
        *seen, side = Split()(image)
        found = tuple(tensor for view in seen for tensor in detector(view))
    return {
        PREPROCESS.name: preprocess_step(),
        SPLIT.name: TracedStep(
            SPLIT,
            Split(),
            (image,),
            {name: square for name in (*SPLIT.inputs, *SPLIT.outputs[:TTA_VIEWS])},
        ),
        MERGE_MASKS.name: TracedStep(
            MERGE_MASKS,
            MergeMasks(),
            (side, *found),
            {
                **{name: {0: f"nuclei_{name[-1]}"} for name in of_views(FOUND_MASKS)},
                **{name: {0: "nuclei"} for name in FOUND_MASKS},
            },
        ),
    }


def _weights(nuclei: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
    """Scores of the boxes [N, 4] of a view, in the row of the nucleus [K, 4] they overlap most."""
    overlaps: Tensor = box_iou(nuclei, boxes)
    ranks = torch.arange(nuclei.shape[0], device=nuclei.device)
    return (overlaps.argmax(dim=0) == ranks[:, None]).to(scores) * scores


def _turned_back(boxes: Tensor, side: Tensor, view: int) -> Tensor:
    """Boxes [N, 4] of a view, in the image's coordinates."""
    for _ in range(view % 4):
        y0, x0, y1, x1 = boxes.unbind(dim=1)
        boxes = torch.stack([x0, side - y1, x1, side - y0], dim=1)
    if view >= TTA_VIEWS // 2:
        y0, x0, y1, x1 = boxes.unbind(dim=1)
        boxes = torch.stack([y0, side - x1, y1, side - x0], dim=1)
    return boxes


def _masks_turned_back(masks: Tensor, view: int) -> Tensor:
    """Masks [N, M, M] of a view, oriented as the image; float32, same levels."""
    turned = quarter_turns(masks.to(torch.float32)[:, None], -view)
    return (turned.flip(3) if view >= TTA_VIEWS // 2 else turned)[:, 0]
