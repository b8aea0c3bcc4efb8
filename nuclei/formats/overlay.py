"""A picture of a frame with the outlines of its nuclei."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import intensity_range

# Enough colours that neighbours rarely share one. The second set stands out on tissue and white.
COLOURS_ON_DARK = ((255, 214, 0), (0, 229, 255), (255, 92, 205), (124, 255, 77), (255, 138, 51))
COLOURS_ON_BRIGHT = ((235, 0, 0), (0, 165, 0), (255, 140, 0), (0, 170, 215), (225, 200, 0))
BRIGHT_BACKGROUND = 110
MIN_SIDE_PX = 512


def overlay(frame: Frame, labels: NDArray[np.integer], width_px: int = 1) -> NDArray[np.uint8]:
    """The frame with stretched contrast, and a coloured outline inside each nucleus.

    Args:
        frame: the frame.
        labels: integer [H, W], 0 is background.
        width_px: of the outlines, in pixels of the picture.

    Returns:
        uint8 RGB [H * n, W * n, 3], n the smallest whole number that makes the longer side at least
        512 pixels, so that outlines stay thin on small frames.
    """
    picture = enlarged(frame)
    colours = COLOURS_ON_BRIGHT if is_bright(picture) else COLOURS_ON_DARK
    draw_outlines(picture, labels, colours, width_px)
    return picture


def enlarged(frame: Frame) -> NDArray[np.uint8]:
    """The frame with stretched contrast: uint8 RGB, the same size as from `overlay`."""
    picture = stretched(frame)
    height, width = picture.shape[:2]
    times = -(-MIN_SIDE_PX // max(height, width))
    if times == 1:
        return picture
    return np.asarray(cv2.resize(picture, (width * times, height * times)), np.uint8)


def is_bright(picture: NDArray[np.uint8]) -> bool:
    return bool(np.median(picture) > BRIGHT_BACKGROUND)


def draw_outlines(
    picture: NDArray[np.uint8],
    labels: NDArray[np.integer],
    colours: Sequence[Sequence[int]],
    width_px: int = 1,
) -> None:
    """Draw an outline inside each nucleus.

    Args:
        picture: uint8 RGB [H * n, W * n, 3], drawn on.
        labels: integer [H, W], 0 is background.
        colours: K colours, each red, green, blue; nucleus k gets colour k modulo K.
        width_px: of the outline, in pixels of the picture.
    """
    times = len(picture) // len(labels)
    labels = labels.repeat(times, axis=0).repeat(times, axis=1)
    for _ in range(width_px):
        edge = np.nonzero(_inner_edges(labels))
        picture[edge] = np.array(colours, np.uint8)[labels[edge] % len(colours)]
        labels[edge] = 0


def stretched(frame: Frame) -> NDArray[np.uint8]:
    """The frame with its intensity range stretched to 0..255: uint8 RGB [H, W, 3]."""
    lo, hi = intensity_range(frame.pixels)
    levels = np.arange(np.iinfo(frame.pixels.dtype).max + 1, dtype=np.float32)
    table = np.clip((levels - lo) / (hi - lo) * 255, 0, 255).astype(np.uint8)
    channels = 3 // frame.pixels.shape[2]
    return np.ascontiguousarray(table[frame.pixels].repeat(channels, axis=2))


def _inner_edges(labels: NDArray[Any]) -> NDArray[np.bool_]:
    edges = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    return np.asarray(edges & (labels != 0))
