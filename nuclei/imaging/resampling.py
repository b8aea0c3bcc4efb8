"""Frames at another size, and label images brought back to theirs."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numba import int64, uint32, void
from numpy.typing import NDArray

from nuclei.jit import UINT32_2D, kernel

# Rows of a label image that are made between two checks.
BAND_PX = 2**22


def resampled(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], shape: tuple[int, int]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Pixels [H, W, C] at the size `shape`, (height, width): means when smaller, else cubic."""
    height, width = shape
    smaller = height < len(pixels)
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    made: Any = cv2.resize(pixels, (width, height), interpolation=way)
    return np.ascontiguousarray(made.reshape(height, width, pixels.shape[2]))


def labels_at(
    labels: NDArray[np.uint32],
    shape: tuple[int, int],
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.uint32]:
    """A label image at another size.

    Each pixel takes the label that has most weight where labels are interpolated linearly: outlines
    are smoother than those of the nearest pixel, and no label is invented between two others.

    Args:
        labels: uint32 [H, W], 0 is background.
        shape: (height, width).
        check: called every few megapixels; an exception that it raises ends the work.

    Returns:
        uint32 of that shape. Labels may be missing in it when it is smaller.
    """
    labels = np.ascontiguousarray(labels)
    made = np.empty(shape, np.uint32)
    rows = max(1, BAND_PX // shape[1])
    for start in range(0, shape[0], rows):
        check()
        _vote(labels, made, start, min(start + rows, shape[0]))
    return made


@kernel(void(UINT32_2D, uint32[:, ::1], int64, int64))
def _vote(labels: NDArray[np.uint32], made: NDArray[np.uint32], start: int, stop: int) -> None:
    """Fill these rows with the heaviest label of the four around each point."""
    height, width = labels.shape
    step_y, step_x = height / made.shape[0], width / made.shape[1]
    near = np.empty(4, np.uint32)
    weight = np.empty(4, np.float64)
    for y in range(start, stop):
        v = min(max((y + 0.5) * step_y - 0.5, 0.0), height - 1.0)
        top = int64(v)
        below, down = min(top + 1, height - 1), v - top
        for x in range(made.shape[1]):
            u = min(max((x + 0.5) * step_x - 0.5, 0.0), width - 1.0)
            left = int64(u)
            beside, right = min(left + 1, width - 1), u - left
            near[0], weight[0] = labels[top, left], (1 - down) * (1 - right)
            near[1], weight[1] = labels[top, beside], (1 - down) * right
            near[2], weight[2] = labels[below, left], down * (1 - right)
            near[3], weight[3] = labels[below, beside], down * right
            best, most = near[0], -1.0
            for i in range(4):
                total = 0.0
                for j in range(4):
                    if near[j] == near[i]:
                        total += weight[j]
                if total > most:
                    best, most = near[i], total
            made[y, x] = best
