"""The steps of a detector's graph as torch modules, their ONNX files, and the parity of the two.

A detector is a module that finds the nuclei of one image: IMAGE float32 [1, C, H, W] in [0, 1], C 1
or 3, H and W multiples of its stride, to

    BOXES   float32 [N, 4], (y0, x0, y1, x1), pixels of the image
    SCORES  float32 [N], in [0, 1]
    MASKS   uint8 [N, M, M], stretched over the boxes, 255 is probability 1
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.onnx.operators import shape_as_tensor
from torchvision.ops import box_iou, nms

from nuclei.inference.contract import Method
from nuclei.inference.parity import differences
from nuclei.postprocessing.accumulation import OUTPUTS
from training.graphs.maps import (
    N_VIEWS,
    Views,
    export_steps,
    preprocess_step,
    quarter_turns,
    to_uint8,
)

# Of the tracing exporter, which alone knows the operators of detectors.
OPSET = 17
SAME_NUCLEUS_IOU = 0.5
EXAMPLE_PX = 128
EXAMPLE_NUCLEI = 20

BOXES, SCORES, MASKS = OUTPUTS[Method.MASKS]


class Split(nn.Module):
    """INPUT [1, C, S, S] to its eight views, each [1, C, S, S], and SIDE int64 [1], which is S.

    In the order of `training.graphs.maps.Views`.
    """

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        views = Views()(image)
        side = shape_as_tensor(image)[3:4].to(image.device)
        return (*(views[k : k + 1] for k in range(N_VIEWS)), side)


class MergeMasks(nn.Module):
    """What a detector found in the eight views, each nucleus once.

    Weighted boxes fusion (Solovyev et al. 2021, section 3), of masks as of boxes: what overlaps a
    surer one by an IoU above one half is one nucleus with it. Its box and mask are the means
    weighted by score; its score is the mean over the views of the surest there, 0 where is none.
    """

    def forward(self, side: Tensor, *found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Merge.

        Args:
            side: int64 [1], of the image, pixels.
            found: BOXES, SCORES and MASKS of each view, in the order of `Split`.

        Returns:
            BOXES, SCORES and MASKS.
        """
        boxes = [_turned_back(found[3 * k], side, k) for k in range(N_VIEWS)]
        masks = [_masks_turned_back(found[3 * k + 2], k).flatten(1) for k in range(N_VIEWS)]
        scores = found[1::3]
        # The last lies outside of every image, with a score of 0: so nothing is ever empty.
        of_all = torch.cat([*boxes, boxes[0].new_tensor([[-2.0, -2.0, -1.0, -1.0]])])
        surest = nms(of_all, torch.cat([*scores, scores[0].new_zeros(1)]), SAME_NUCLEUS_IOU)
        nuclei = of_all[surest]
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
        return means[:, :4], merged[:-1] / N_VIEWS, merged_masks


@dataclass(frozen=True)
class _Step:
    """One ONNX file: its module, an example input, names, and dynamic axes by tensor."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]]


def export_detector(detector: nn.Module, folder: Path) -> dict[str, float]:
    """Write the ONNX files of a detector's graphs, the detector itself being `network.onnx`.

    Arguments and what is returned are as of `export_views`.
    """
    image = example_image()
    outputs = (BOXES, SCORES, MASKS)
    axes = {1: "channels", 2: "height", 3: "width"}
    dynamic = {"IMAGE": axes, **{name: {0: "nuclei"} for name in outputs}}
    network = _Step(detector, (image,), ("IMAGE",), outputs, dynamic)
    return {**export_views(detector, folder), **_export_all({"network": network}, folder)}


def export_views(detector: nn.Module, folder: Path) -> dict[str, float]:
    """Write the steps around a detector, and compare each with torch on its example.

    Args:
        detector: in evaluation mode, float32, on the CPU.
        folder: existing folder that receives the files.

    Returns:
        Largest absolute difference between ONNX and torch, by step, and of nuclei by step and
        tensor (`nuclei.inference.parity.differences`).
    """
    parity = export_steps({"preprocess": preprocess_step()}, folder)
    return {**parity, **_export_all(_view_steps(detector), folder)}


def _export_all(steps: Mapping[str, _Step], folder: Path) -> dict[str, float]:
    parity: dict[str, float] = {}
    for name, step in steps.items():
        path = folder / f"{name}.onnx"
        _export(step, path)
        found = _differences(step, path)
        if SCORES in found:
            parity |= {f"{name}/{tensor}": value for tensor, value in found.items()}
        else:
            parity[name] = max(found.values())
    return parity


def example_image() -> Tensor:
    """Blurred bright discs, float32 [1, 3, 128, 128]."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(EXAMPLE_NUCLEI, 2, 1, 1, generator=generator) * EXAMPLE_PX
    radii = 4 + 6 * torch.rand(EXAMPLE_NUCLEI, 1, 1, generator=generator)
    place = torch.arange(EXAMPLE_PX)
    distance = torch.hypot(place[:, None] - centres[:, 0], place - centres[:, 1])
    return torch.sigmoid(radii - distance).amax(dim=0).expand(1, 3, -1, -1)


def _view_steps(detector: nn.Module) -> dict[str, _Step]:
    image = example_image()
    views = tuple(f"VIEW_{k}" for k in range(N_VIEWS))
    outputs = (BOXES, SCORES, MASKS)
    of_views = tuple(f"{name}_{k}" for k in range(N_VIEWS) for name in outputs)
    square = {1: "channels", 2: "side", 3: "side"}
    with torch.inference_mode():
        *seen, side = Split()(image)
        found = tuple(tensor for view in seen for tensor in detector(view))
    return {
        "split": _Step(
            Split(),
            (image,),
            ("INPUT",),
            (*views, "SIDE"),
            {name: square for name in ("INPUT", *views)},
        ),
        "merge_masks": _Step(
            MergeMasks(),
            (side, *found),
            ("SIDE", *of_views),
            outputs,
            {
                **{name: {0: f"nuclei_{name[-1]}"} for name in of_views},
                **{name: {0: "nuclei"} for name in outputs},
            },
        ),
    }


def _export(step: _Step, path: Path) -> None:
    with warnings.catch_warnings():
        # It is deprecated, and warns of every shape that torchvision looks at.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            step.module,
            step.example,
            path,
            input_names=step.inputs,
            output_names=step.outputs,
            opset_version=OPSET,
            dynamic_axes=step.dynamic,
            dynamo=False,
        )
    model = onnx.load(path)
    for node in model.graph.node:
        node.doc_string = ""
    onnx.save(model, path)


def _differences(step: _Step, path: Path) -> dict[str, float]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in zip(step.inputs, step.example, strict=True)}
    found = session.run(list(step.outputs), feeds)
    with torch.inference_mode():
        expected = step.module(*step.example)
    return differences(
        dict(zip(step.outputs, found, strict=True)),
        {name: tensor.numpy() for name, tensor in zip(step.outputs, expected, strict=True)},
    )


def _weights(nuclei: Tensor, boxes: Tensor, scores: Tensor) -> Tensor:
    """Scores of the boxes [N, 4] of a view, in the row of the nucleus [K, 4] they overlap most."""
    overlaps: Tensor = box_iou(nuclei, boxes)
    ranks = torch.arange(nuclei.shape[0], device=nuclei.device)
    return (overlaps.argmax(dim=0) == ranks[:, None]).to(scores) * scores


def _turned_back(boxes: Tensor, side: Tensor, view: int) -> Tensor:
    """Boxes [N, 4] of a view, in the image."""
    for _ in range(view % 4):
        y0, x0, y1, x1 = boxes.unbind(dim=1)
        boxes = torch.stack([x0, side - y1, x1, side - y0], dim=1)
    if view >= N_VIEWS // 2:
        y0, x0, y1, x1 = boxes.unbind(dim=1)
        boxes = torch.stack([y0, side - x1, y1, side - x0], dim=1)
    return boxes


def _masks_turned_back(masks: Tensor, view: int) -> Tensor:
    """Masks [N, M, M] of a view, in the image; float32 of the same levels."""
    turned = quarter_turns(masks.to(torch.float32)[:, None], -view)
    return (turned.flip(3) if view >= N_VIEWS // 2 else turned)[:, 0]
