"""The steps of the graph of a network that gives probability maps, as torch modules."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from nuclei.inference.graph import MAP_NETWORK, MERGE, PREPROCESS, TTA, TTA_VIEWS
from training.graphs.kinds import ByKind, KindsModule, KindsStep
from training.graphs.step import ExportedStep, GraphStep
from training.graphs.views import (
    LEVELS,
    Preprocess,
    Views,
    preprocess_step,
    quarter_turns,
    three_channels,
    to_uint8,
    views_step,
)

# Sides of an example, unequal so that height and width are not confused.
EXAMPLE_SHAPE = (96, 128)
SPOT_PX = 16


def example_images() -> Tensor:
    """Spots of the size of nuclei with noise, float32 [2, 3, *EXAMPLE_SHAPE] in [0, 1]."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, *(side // SPOT_PX for side in EXAMPLE_SHAPE), generator=random)
    spots = functional.interpolate(coarse, EXAMPLE_SHAPE, mode="bicubic")
    noise = torch.rand(2, 3, *EXAMPLE_SHAPE, generator=random)
    return (0.9 * spots + 0.1 * noise).clamp(0, 1)


class Network(nn.Module):
    """IMAGE float32 [N, C, H, W] in [0, 1] to MAPS uint8 [N, K, H, W], 255 is probability 1.

    The maps are bytes because they are sent to the next step and to the gateway.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(three_channels(image))
        return to_uint8(torch.sigmoid(logits.float()) * LEVELS)


class Merge(nn.Module):
    """MAPS_IN uint8 [8, K, S, S] of the views to their mean, and the foreground's deviation.

    MAPS uint8 [1, K, S, S], 255 is probability 1; DISAGREEMENT uint8 [S, S], the standard
    deviation over the views of map 0, 255 is 1.
    """

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        straight = torch.cat([quarter_turns(maps[k : k + 1], -k) for k in range(4)])
        mirrored = torch.cat([quarter_turns(maps[4 + k : 5 + k], -k) for k in range(4)]).flip(3)
        turned = torch.cat([straight, mirrored]).to(torch.float32)
        mean = turned.mean(dim=0, keepdim=True)
        deviation = (turned[:, 0] - mean[:, 0]).square().mean(dim=0).sqrt()
        return to_uint8(mean), to_uint8(deviation)


def map_modules(network: nn.Module) -> dict[str, nn.Module]:
    """The modules of the graph by step.

    Args:
        network: logits from images, in evaluation mode.
    """
    return {
        PREPROCESS.name: Preprocess(),
        TTA.name: Views(),
        MAP_NETWORK.name: (
            KindsModule(Network(network.grey), Network(network.colour))
            if isinstance(network, ByKind)
            else Network(network)
        ),
        MERGE.name: Merge(),
    }


def map_steps(network: nn.Module) -> dict[str, GraphStep]:
    """The steps of the graph by file name.

    Args:
        network: logits from images, in evaluation mode, float32, on the CPU.
    """
    return {
        PREPROCESS.name: preprocess_step(),
        TTA.name: views_step(),
        MAP_NETWORK.name: (
            KindsStep.of(_network_step(network.grey), _network_step(network.colour))
            if isinstance(network, ByKind)
            else _network_step(network)
        ),
        MERGE.name: _merge_step(),
    }


def _network_step(network: nn.Module) -> ExportedStep:
    channels, views = Dim("channels", min=1, max=4), Dim("views", min=1, max=64)
    rows, columns = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
    return ExportedStep(
        MAP_NETWORK,
        Network(network),
        (example_images(),),
        ({0: views, 1: channels, 2: 32 * rows, 3: 32 * columns},),
        # Shifts 0.3% of the pixels by one of the 255 levels.
        half_weights=True,
    )


@cache
def _merge_step() -> ExportedStep:
    height, channels = Dim("height", min=1, max=2**14), Dim("channels", min=1, max=4)
    return ExportedStep(
        MERGE,
        Merge(),
        (torch.randint(0, 256, (TTA_VIEWS, 3, 64, 64)).to(torch.uint8),),
        ({1: channels, 2: height, 3: height},),
    )
