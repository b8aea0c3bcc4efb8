"""The steps of a star-convex network's graph as torch modules."""

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from nuclei.inference.graph import (
    MERGE_STARS,
    PREPROCESS,
    SELECT_STARS,
    STAR_NETWORK,
    TTA,
    TTA_VIEWS,
)
from training.data.stars import GRID_PX, N_RAYS
from training.graphs.maps import EXAMPLE_SHAPE
from training.graphs.step import ExportedStep
from training.graphs.views import (
    Preprocess,
    Views,
    preprocess_step,
    quarter_turns,
    three_channels,
    views_step,
)

MAX_STARS = 2048
# Below every threshold that tuning tries.
MIN_SCORE = 0.05


class StarNetwork(nn.Module):
    """IMAGE float32 [N, C, H, W] in [0, 1] to STARS float16 [N, 1 + 32, H / 2, W / 2].

    Depth in [0, 1], then rays in pixels, as `star_targets`. Half precision, because the maps travel
    to the next step.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        answers = self.network(three_channels(image)).float()
        depth, rays = torch.sigmoid(answers[:, :1]), answers[:, 1:].clamp(min=0.0)
        return torch.cat([depth, rays], dim=1).to(torch.float16)


class MergeStars(nn.Module):
    """STARS_IN float16 [8, 1 + 32, S, S] of the views to their mean, STARS [1, 1 + 32, S, S].

    Turning an image turns its rays: those of a view are reordered by their direction in the image.
    """

    sources: Tensor

    def __init__(self) -> None:
        super().__init__()
        rays = torch.arange(N_RAYS)
        # Directions in the mirror image, then in the turned one; the depth stays the first map.
        sides = (rays, (N_RAYS // 2 - rays) % N_RAYS)
        turned = [(side - k * N_RAYS // 4) % N_RAYS for side in sides for k in range(4)]
        sources = functional.pad(1 + torch.stack(turned), (1, 0))
        self.register_buffer("sources", sources, persistent=False)

    def forward(self, stars: Tensor) -> Tensor:
        views = [
            quarter_turns(stars[v : v + 1].float().index_select(1, self.sources[v]), -v % 4)
            for v in range(TTA_VIEWS)
        ]
        straight, mirrored = torch.cat(views[:4]), torch.cat(views[4:]).flip(3)
        return torch.cat([straight, mirrored]).mean(dim=0, keepdim=True).to(torch.float16)


class SelectStars(nn.Module):
    """STARS float16 [1, 1 + 32, h, w] to the points of greatest depth, by falling score.

    POINTS float32 [N, 2] (y, x), pixels of the image; SCORES float32 [N], the depth; RAYS float32
    [N, 32], pixels. A point is taken where no neighbour is deeper: its neighbours would only be
    suppressed later, and displace other nuclei.
    """

    def forward(self, stars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = stars[0].float()
        depth, width = maps[:1], stars.shape[3]
        peaks = depth * (depth == functional.max_pool2d(depth, 3, stride=1, padding=1))
        # An image may have fewer cells than the most stars that are taken.
        padded = functional.pad(peaks.flatten(), (0, MAX_STARS))
        scores, places = padded.topk(MAX_STARS)
        sure = torch.nonzero(scores > MIN_SCORE)[:, 0]
        scores, places = scores.index_select(0, sure), places.index_select(0, sure)
        rows = places // width
        cells = torch.stack([rows, places - rows * width], dim=1).float()
        rays = maps[1:].flatten(1).index_select(1, places).transpose(0, 1)
        return GRID_PX * cells + (GRID_PX - 1) / 2, scores, rays


def star_modules(network: nn.Module) -> dict[str, nn.Module]:
    """The modules of the graph by step.

    Args:
        network: of `training.families.stardist.build_star_network`, in evaluation mode.
    """
    return {
        PREPROCESS.name: Preprocess(),
        TTA.name: Views(),
        STAR_NETWORK.name: StarNetwork(network),
        MERGE_STARS.name: MergeStars(),
        SELECT_STARS.name: SelectStars(),
    }


def star_steps(network: nn.Module) -> dict[str, ExportedStep]:
    """The steps of a star-convex network's graph by file name.

    Args:
        network: of `build_star_network`, in evaluation mode, float32, on the CPU.
    """
    channels, views = Dim("channels", min=1, max=4), Dim("views", min=1, max=64)
    rows, columns = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
    height, width = Dim("height", min=2, max=2**14), Dim("width", min=2, max=2**14)
    return {
        PREPROCESS.name: preprocess_step(),
        TTA.name: views_step(),
        STAR_NETWORK.name: ExportedStep(
            STAR_NETWORK,
            StarNetwork(network),
            (torch.rand(2, 3, *EXAMPLE_SHAPE),),
            ({0: views, 1: channels, 2: 32 * rows, 3: 32 * columns},),
        ),
        MERGE_STARS.name: ExportedStep(
            MERGE_STARS,
            MergeStars(),
            (torch.rand(TTA_VIEWS, 1 + N_RAYS, 32, 32).to(torch.float16),),
            ({2: height, 3: height},),
        ),
        SELECT_STARS.name: ExportedStep(
            SELECT_STARS,
            SelectStars(),
            (_distinct(1 + N_RAYS, 24, 32),),
            ({2: height, 3: width},),
        ),
    }


def _distinct(channels: int, height: int, width: int) -> Tensor:
    """Maps in which no two cells are equally deep, because ties have no order."""
    count = height * width
    depth = (torch.randperm(count).float() / count).view(1, height, width)
    return torch.cat([depth, 20 * torch.rand(channels - 1, height, width)])[None].to(torch.float16)
