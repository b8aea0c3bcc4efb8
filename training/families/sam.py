"""Segment Anything, fine-tuned: nuclei drawn inside the boxes of a detector.

Kirillov et al. 2023, "Segment Anything": an image encoder runs once per image, a light mask decoder
once per prompt. Weights come from a folder that `transformers` wrote; the detector is a trained
Mask R-CNN or YOLOv8 of ours.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional
from transformers import SamModel

from nuclei.errors import InvalidData
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.graph import DECODER, DETECTOR, ENCODER, MASK_NETWORK
from nuclei.inference.method import MASKS, PROMPTED
from training.data.targets import nuclei_tensors
from training.families.yolov8 import LICENCE as YOLO_LICENCE
from training.families.yolov8 import YoloV8
from training.graphs.detections import example_image, view_modules, view_steps
from training.graphs.step import ExportedStep, export_steps
from training.graphs.views import LEVELS, three_channels
from training.job import LearnedRecipe
from training.schedule import SAM, Schedule

MASK_PX = 28
# Mean and deviation of ImageNet's pixels in [0, 1], with which SAM was trained.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
# A detector's box may cut off a nucleus, so its mask is sought in a box larger by this factor.
MARGIN = 1.2
# Boxes of each image in a training step.
PROMPTS = 32
# Standard deviation of the random shift of a true box's corners, as a fraction of its side.
JITTER = 0.1
FOCAL_GAMMA = 2.0
# SAM, appendix A: focal and Dice loss are added 20:1.
FOCAL_WEIGHT = 20.0


class SamNetwork(nn.Module):
    """SAM with boxes as prompts."""

    sam: Any

    def __init__(self, sam: Any) -> None:
        """Take a `transformers.SamModel`; only its mask decoder learns."""
        super().__init__()
        self.sam = sam
        self.side = int(sam.config.vision_config.image_size)
        sam.requires_grad_(False)
        sam.mask_decoder.requires_grad_(True)

    def encode(self, images: Tensor) -> Tensor:
        """Embeddings float32 [N, D, E, E] of images float32 [N, 3, S, S] in [0, 1]."""
        scaled = functional.interpolate(
            images, size=(self.side, self.side), mode="bilinear", align_corners=False
        )
        mean, deviation = (scaled.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
        normal = (scaled - mean) / deviation
        embedding: Tensor = self.sam.vision_encoder(normal).last_hidden_state
        return embedding

    def decode(self, embeddings: Tensor, boxes: Tensor, image_px: Tensor | int) -> Tensor:
        """Masks of all boxes of each image.

        Args:
            embeddings: float32 [N, D, E, E].
            boxes: float32 [N, B, 4], (y0, x0, y1, x1), pixels of the image, B > 0.
            image_px: side of the images, pixels.

        Returns:
            Logits float32 [N, B, M, M], which cover the whole image.
        """
        xyxy = boxes[..., [1, 0, 3, 2]] * (self.side / image_px)
        sparse, dense = self.sam.prompt_encoder(None, None, xyxy, None)
        positions = self.sam.get_image_wide_positional_embeddings()
        logits, _ = self.sam.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=positions.repeat(embeddings.shape[0], 1, 1, 1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        masks: Tensor = logits[:, :, 0]
        return masks


class Encoder(nn.Module):
    """INPUT float32 [1, C, S, S] in [0, 1] to EMBEDDING [1, D, E, E] and SIDE float32 [1], S."""

    def __init__(self, network: SamNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        side = torch.ones(1, device=image.device) * image.shape[2]
        return self.network.encode(three_channels(image)), side


class Decoder(nn.Module):
    """EMBEDDING, SIDE and a detector's boxes and scores, to boxes, scores and masks of nuclei.

    BOXES_FOUND float32 [N, 4] (y0, x0, y1, x1), SCORES_FOUND float32 [N] to BOXES float32 [N, 4],
    SCORES float32 [N] unchanged, MASKS uint8 [N, 28, 28], 255 is probability 1.
    """

    def __init__(self, network: SamNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, embedding: Tensor, side: Tensor, boxes: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # One extra box, because the decoder needs at least one.
        asked = torch.cat([boxes, boxes.new_tensor([[0.0, 0.0, 1.0, 1.0]])])
        logits = self.network.decode(embedding, asked[None], side)[0]
        centre, half = (asked[:, :2] + asked[:, 2:]) / 2, (asked[:, 2:] - asked[:, :2]) / 2
        wide = torch.cat([centre - MARGIN * half, centre + MARGIN * half], dim=1)
        masks = (_within(logits, wide, side) * LEVELS).round().to(torch.uint8)
        return wide[:-1], scores, masks[:-1]


def _within(logits: Tensor, boxes: Tensor, side: Tensor) -> Tensor:
    """Probabilities [N, 28, 28] within the boxes, from logits [N, M, M] of the whole image."""
    at = (torch.arange(MASK_PX, device=logits.device) + 0.5) / MASK_PX
    y = boxes[:, 0:1] + at * (boxes[:, 2:3] - boxes[:, 0:1])
    x = boxes[:, 1:2] + at * (boxes[:, 3:4] - boxes[:, 1:2])
    grid = torch.stack(
        [
            (x / side * 2 - 1)[:, None, :].expand(-1, MASK_PX, -1),
            (y / side * 2 - 1)[:, :, None].expand(-1, -1, MASK_PX),
        ],
        dim=3,
    )
    found = functional.grid_sample(logits[:, None], grid, align_corners=False)
    return torch.sigmoid(found[:, 0])


class OnnxDetector(nn.Module):
    """A detector that is an ONNX file (see `training.graphs.detections`), run on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        fed = {self._session.get_inputs()[0].name: image.cpu().numpy()}
        found = self._session.run(None, fed)
        return tuple(torch.from_numpy(tensor).to(image.device) for tensor in found)


class PromptedDetector(nn.Module):
    """A detector (see `training.graphs.detections`) whose masks SAM redraws."""

    def __init__(self, network: SamNetwork, detector: Path) -> None:
        """Take a network and the ONNX file of a detector."""
        super().__init__()
        self.detector = OnnxDetector(detector)
        self.encoder, self.decoder = Encoder(network), Decoder(network)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found, scores_found, _ = self.detector(image)
        boxes, scores, masks = self.decoder(*self.encoder(image), found, scores_found)
        return boxes, scores, masks

    def steps(self) -> dict[str, ExportedStep]:
        """SAM's own steps of the graph by file name; modules float32, on the CPU."""
        image = example_image()
        embedding, side = self.encoder(image)
        corners = torch.rand(5, 2) * image.shape[2] / 2
        boxes = torch.cat([corners, corners + 8 + 24 * torch.rand(5, 2)], dim=1)
        channels, found = Dim("channels", min=1, max=4), Dim("found", min=0, max=4096)
        height = Dim("height", min=32, max=2**12)
        return {
            ENCODER.name: ExportedStep(
                ENCODER,
                self.encoder,
                (image.contiguous(),),
                ({1: channels, 2: height, 3: height},),
            ),
            DECODER.name: ExportedStep(
                DECODER,
                self.decoder,
                (embedding.detach(), side, boxes, torch.rand(5)),
                ({}, {}, {0: found}, {0: found}),
            ),
        }


@dataclass(frozen=True, kw_only=True)
class Sam(LearnedRecipe):
    """Segment Anything.

    Attributes:
        weights: folder of a `transformers.SamModel` (config.json, model.safetensors).
        detector: folder of a detector's artifacts (contract.json, network.onnx), whose boxes are
            the prompts when predicting; in training they are the true ones.
    """

    weights: Path
    detector: Path
    schedule: Schedule = field(default_factory=lambda: SAM)

    family = "sam"

    def contract(self) -> Contract:
        found = Contract.read(self.detector / CONTRACT_FILE)
        if found.method is not MASKS:
            raise InvalidData(
                f"{self.detector} holds a {found.family}, which finds no boxes; expected a "
                "mask_rcnn or a yolov8"
            )
        return Contract(
            self.family,
            PROMPTED,
            maps=(),
            tile_size=found.tile_size,
            halo=found.halo,
            stride=found.stride,
            pixel_size_um=self.pixel_size_um,
            postprocessing=found.postprocessing,
            colour_postprocessing=found.colour_postprocessing,
        )

    def build(self) -> nn.Module:
        try:
            return SamNetwork(SamModel.from_pretrained(self.weights, local_files_only=True))
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidData(
                f"{self.weights} holds no weights of SAM ({error}); expected the folder that "
                "transformers' SamModel.save_pretrained writes: config.json, model.safetensors"
            ) from error

    def targets(self, labels: NDArray[np.uint16]) -> dict[str, Tensor]:
        return nuclei_tensors(labels)

    def loss_of(
        self, network: nn.Module, images: Tensor, targets: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        """Focal and Dice loss of masks prompted by true boxes, shifted at random."""
        assert isinstance(network, SamNetwork)
        kept = [index for index, target in enumerate(targets) if len(target["boxes"])]
        if not kept:
            return torch.stack([p.sum() for p in network.sam.mask_decoder.parameters()]).sum() * 0
        prompts, masks = zip(*(_prompts(targets[index]) for index in kept), strict=True)
        boxes, truth = torch.stack(prompts).to(images.device), torch.stack(masks).to(images.device)
        with torch.no_grad():
            embeddings = network.encode(images[kept])
        logits = network.decode(embeddings, boxes, images.shape[2]).float()
        truth = functional.interpolate(truth, logits.shape[2:], mode="area")
        return FOCAL_WEIGHT * _focal(logits, truth) + _dice(logits, truth)

    def modules(self, network: nn.Module) -> dict[str, nn.Module]:
        prompted = self._prompted(network)
        return {
            **view_modules(),
            DETECTOR.name: prompted.detector,
            ENCODER.name: prompted.encoder,
            DECODER.name: prompted.decoder,
        }

    def export(self, network: nn.Module, folder: Path) -> dict[str, float]:
        shutil.copyfile(self.detector / MASK_NETWORK.filename, folder / DETECTOR.filename)
        prompted = self._prompted(network)
        return export_steps({**view_steps(prompted), **prompted.steps()}, folder)

    def tags(self) -> Mapping[str, Any]:
        detector = Contract.read(self.detector / CONTRACT_FILE)
        return {"weights": self.weights.name, "detector": detector.family}

    def code_licences(self) -> frozenset[str]:
        """SAM's code and weights are Apache-2.0, too; the detector may be ultralytics'."""
        detector = Contract.read(self.detector / CONTRACT_FILE)
        of_detector = {YOLO_LICENCE} if detector.family == YoloV8.family else set()
        return super().code_licences() | of_detector

    def _prompted(self, network: nn.Module) -> PromptedDetector:
        assert isinstance(network, SamNetwork)
        return PromptedDetector(network, self.detector / MASK_NETWORK.filename)


def _prompts(target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes [PROMPTS, 4] (y0, x0, y1, x1) and masks [PROMPTS, S, S] of nuclei drawn at random."""
    chosen = torch.randint(len(target["boxes"]), (PROMPTS,))
    boxes = target["boxes"][chosen][:, [1, 0, 3, 2]]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    masks = (target["parts"] == chosen[:, None, None] + 1).float()
    return boxes + torch.randn(PROMPTS, 4) * JITTER * sides, masks


def _focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Lin et al. 2017, equation 4, for soft targets."""
    weight = (truth - torch.sigmoid(logits)).abs() ** FOCAL_GAMMA
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (weight * entropy).mean()


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - soft Dice of each mask (Milletari et al. 2016, section 3)."""
    p, axes = torch.sigmoid(logits), (2, 3)
    overlap = 2 * (p * truth).sum(axes) + 1
    return 1 - (overlap / ((p * p).sum(axes) + (truth * truth).sum(axes) + 1)).mean()
