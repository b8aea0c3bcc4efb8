"""The first steps of every graph as torch modules: the image, and its eight views (TTA)."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.onnx.operators import shape_as_tensor

from nuclei.inference.graph import PREPROCESS, TTA, TTA_VIEWS
from nuclei.postprocessing import probability
from training.graphs.step import ExportedStep

LEVELS = float(probability.LEVELS)


class Preprocess(nn.Module):
    """IMAGE uint16 [H, W, C] and RANGE float32 [2] to INPUT float32 [1, C, H, W] in [0, 1]."""

    def forward(self, image: Tensor, intensity: Tensor) -> Tensor:
        lo, hi = intensity[0], intensity[1]
        # Channels first: onnxruntime is ten times slower with a last dimension of 1.
        values = image.to(torch.float32).permute(2, 0, 1).unsqueeze(0)
        return ((values - lo) / (hi - lo)).clamp(0.0, 1.0)


class Views(nn.Module):
    """INPUT [1, C, S, S] to VIEWS [8, C, S, S]: four rotations, then those of the mirror image."""

    def forward(self, image: Tensor) -> Tensor:
        mirrored = image.flip(3)
        return torch.cat([quarter_turns(side, k) for side in (image, mirrored) for k in range(4)])


class Split(nn.Module):
    """INPUT [1, C, S, S] to its eight views, each [1, C, S, S], and SIDE int64 [1], which is S.

    The views are in the order of `Views`.
    """

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        views = Views()(image)
        side = shape_as_tensor(image)[3:4].to(image.device)
        return (*(views[k : k + 1] for k in range(TTA_VIEWS)), side)


# Steps without weights are always the same: exported once.
@cache
def preprocess_step() -> ExportedStep:
    """The first step of every graph."""
    height, width = Dim("height", min=1, max=2**14), Dim("width", min=1, max=2**14)
    return ExportedStep(
        PREPROCESS,
        Preprocess(),
        (torch.randint(0, 4096, (64, 96, 3)).to(torch.uint16), torch.tensor([7.0, 900.0])),
        ({0: height, 1: width, 2: Dim("channels", min=1, max=4)}, {}),
    )


@cache
def views_step() -> ExportedStep:
    """The step before a network that takes views as a batch."""
    side = Dim("height", min=1, max=2**14)
    return ExportedStep(
        TTA,
        Views(),
        (torch.rand(1, 3, 64, 64),),
        ({1: Dim("channels", min=1, max=4), 2: side, 3: side},),
    )


def three_channels(image: Tensor) -> Tensor:
    """[N, C, H, W], C 1 or 3, as [N, 3, H, W]: grey is repeated three times, colour kept."""
    channels = torch.arange(3, device=image.device) * (image.shape[1] - 1) // 2
    return image.index_select(1, channels)


def quarter_turns(image: Tensor, count: int) -> Tensor:
    """Rotate [N, C, S, S] by quarter turns, without the operators that ONNX lacks."""
    match count % 4:
        case 1:
            return image.transpose(2, 3).flip(2)
        case 2:
            return image.flip(2).flip(3)
        case 3:
            return image.transpose(2, 3).flip(3)
    return image


def to_uint8(levels: Tensor) -> Tensor:
    """Levels 0-255 as bytes, rounded."""
    return levels.round().clamp(0.0, LEVELS).to(torch.uint8)
