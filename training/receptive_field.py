"""How far a network looks: its effective receptive field (Luo et al. 2016)."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

# Luo et al. 2016, section 4: what is below this part of the largest gradient is outside.
LEAST_PART = 1 - 0.9545
STRIDE_PX = 32
MAP_LINES = ("-", "--", "-.")
NUCLEUS_COLOURS = ("deepskyblue", "limegreen", "darkgrey")


def effective_receptive_field(
    network: nn.Module, images: Tensor, reach_px: int, seed: int = 0
) -> NDArray[np.float64]:
    """How much each surrounding pixel weighs in the output for one pixel.

    The mean over images of the absolute gradient of a logit by the image's channels (Luo et al.
    2016, section 2.1), at a pixel near the middle: its place within the network's stride matters.

    Args:
        network: logits [N, K, S, S] from images, in evaluation mode.
        images: float32 [N, 3, S, S] in [0, 1], S at least 2 * reach_px + 33.
        reach_px: how far to look.
        seed: of the places.

    Returns:
        float64 [K, 2R + 1, 2R + 1], of each map, summing to 1; the pixel itself is in the middle.
    """
    size = images.shape[-1]
    middle = size // 2 - STRIDE_PX // 2
    rng = np.random.default_rng(seed)
    fields: list[NDArray[np.float64]] = []
    for image in images:
        seen = image[None].clone().requires_grad_()
        logits = network(seen)
        y, x = middle + rng.integers(0, STRIDE_PX, 2)
        around = np.s_[y - reach_px : y + reach_px + 1, x - reach_px : x + reach_px + 1]
        gradients = [
            torch.autograd.grad(logits[0, k, y, x], seen, retain_graph=True)[0][0]
            for k in range(logits.shape[1])
        ]
        weights = torch.stack(gradients).abs().sum(dim=1).double().numpy()
        fields.append(weights[:, *around])
    mean = np.mean(fields, axis=0)
    return np.asarray(mean / mean.sum(axis=(1, 2), keepdims=True))


def size_px(field: NDArray[np.float64]) -> float:
    """Side of a square with as many pixels as weigh more than 4.55% of the largest weight."""
    return float((field > LEAST_PART * field.max()).sum() ** 0.5)


def weight_within(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part of the weight no more than r pixels away, along either axis; float64 [R + 1]."""
    reach = len(field) // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    away = np.maximum(abs(y), abs(x))
    return np.asarray(np.cumsum(np.bincount(away.ravel(), field.ravel())))


def figure_of_receptive_field(
    fields: NDArray[np.float64],
    names: Sequence[str],
    nuclei: Sequence[tuple[str, NDArray[np.bool_]]],
    halo_px: int,
) -> Figure:
    """The field of each map with the outlines of nuclei over it, and its weight by distance.

    Args:
        fields: float64 [K, 2R + 1, 2R + 1].
        names: of the K maps.
        nuclei: the name and the mask, bool [h, w], of each.
        halo_px: context of a tile around the part that is used.
    """
    reach = fields.shape[-1] // 2
    figure = Figure(figsize=(4 * (len(names) + 1), 4.2), layout="constrained")
    *panels, last = figure.subplots(1, len(names) + 1)
    extent = (-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5)
    for axes, field, name, line in zip(panels, fields, names, cycle(MAP_LINES), strict=False):
        shown = np.log10(np.maximum(field / field.max(), 1e-4))
        picture = axes.imshow(shown, cmap="magma", extent=extent)
        for (_, mask), colour in zip(nuclei, cycle(NUCLEUS_COLOURS), strict=False):
            closed = np.pad(mask, 1)
            y, x = (np.arange(side) - (side - 1) / 2 for side in closed.shape)
            axes.contour(x, y, closed, levels=[0.5], colors=colour, linewidths=1.5)
        axes.set_title(f"{name}: {size_px(field):.0f} pixels", fontsize=10)
        last.plot(weight_within(field), line, color="black", label=name)
    figure.colorbar(picture, ax=panels, shrink=0.8, label="gradient over the largest, log10")
    last.axvline(halo_px, color="red", label="halo of a tile")
    for (name, mask), colour in zip(nuclei, cycle(NUCLEUS_COLOURS), strict=False):
        last.axvline(max(mask.shape) / 2, color=colour, label=f"half the {name}")
    last.set(xlabel="pixels away", ylabel="part of the gradient", ylim=(0, 1))
    last.legend(fontsize=8)
    last.grid(alpha=0.3)
    return figure
