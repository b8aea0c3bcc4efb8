"""A picture of a frame with the outlines of its nuclei."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import intensity_of

# Bright, and different enough that neighbours rarely look alike. On dark frames they stand out by
# themselves, on stained tissue and bright backgrounds by the dark line around them.
COLOURS = ((255, 214, 0), (0, 229, 255), (255, 92, 205), (124, 255, 77), (255, 138, 51))
CASING = (0, 0, 0)
MIN_SIDE_PX = 512
# A picture is looked at about this wide; thinner lines than a pixel of the screen vanish.
SCREEN_PX = 600
# A line takes at most this part of the side of a nucleus, so that small ones are not filled.
PART_OF_NUCLEUS = 1 / 8


def overlay(
    frame: Frame,
    labels: NDArray[np.integer],
    width_px: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.uint8]:
    """The frame with stretched contrast, and a coloured outline with a dark edge on each nucleus.

    Args:
        frame: the frame.
        labels: integer [H, W], 0 is background.
        width_px: of the outlines, in pixels of the picture; None for one that is seen when the
            whole picture is on a screen, and leaves the nuclei visible.
        check: called between steps; an exception that it raises ends the work.

    Returns:
        uint8 RGB [H * n, W * n, 3], n the smallest whole number that makes the longer side at least
        512 pixels, so that outlines stay thin on small frames.
    """
    picture = enlarged(frame)
    check()
    draw_outlines(picture, labels, COLOURS, width_px or _width_px(picture, labels), check)
    return picture


def enlarged(frame: Frame) -> NDArray[np.uint8]:
    """The frame with stretched contrast: uint8 RGB, the same size as from `overlay`."""
    picture = stretched(frame)
    height, width = picture.shape[:2]
    times = -(-MIN_SIDE_PX // max(height, width))
    if times == 1:
        return picture
    return np.asarray(cv2.resize(picture, (width * times, height * times)), np.uint8)


def draw_outlines(
    picture: NDArray[np.uint8],
    labels: NDArray[np.integer],
    colours: Sequence[Sequence[int]],
    width_px: int = 1,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Draw a coloured outline inside each nucleus, and a dark one around it on the background.

    Args:
        picture: uint8 RGB [H * n, W * n, 3], drawn on.
        labels: integer [H, W], 0 is background.
        colours: K colours, each red, green, blue; nucleus k gets colour k modulo K.
        width_px: of each of the two, in pixels of the picture.
        check: called between steps; an exception that it raises ends the work.
    """
    times = len(picture) // len(labels)
    labels = labels.repeat(times, axis=0).repeat(times, axis=1)
    nuclei = (labels != 0).view(np.uint8)
    around = cv2.dilate(nuclei, np.ones((3, 3), np.uint8), iterations=width_px)
    picture[around > nuclei] = CASING
    for _ in range(width_px):
        check()
        edge = np.nonzero(_inner_edges(labels))
        picture[edge] = np.array(colours, np.uint8)[labels[edge] % len(colours)]
        labels[edge] = 0


def _width_px(picture: NDArray[np.uint8], labels: NDArray[np.integer]) -> int:
    """Width of outlines that suits the picture and the size of the nuclei."""
    # Not by bincount, which takes memory for the largest number, up to 2**32.
    _, areas = np.unique(labels[labels != 0], return_counts=True)
    if not len(areas):
        return 1
    side_px = math.sqrt(float(np.median(areas))) * (len(picture) // len(labels))
    wanted_px = int(max(picture.shape)) / SCREEN_PX
    return max(1, round(min(wanted_px, side_px * PART_OF_NUCLEUS)))


def stretched(frame: Frame) -> NDArray[np.uint8]:
    """The frame with its intensity range stretched to 0..255: uint8 RGB [H, W, 3]."""
    lo, hi = intensity_of(frame).range
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
