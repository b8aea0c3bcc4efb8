"""Features of the nuclei of a label image, computed in one pass over its pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int32, int64, types, uint8, uint16, void
from numpy.typing import NDArray

from nuclei.jit import UINT8_2D, UINT32_2D, kernel
from nuclei.postprocessing.bands import bands
from nuclei.postprocessing.probability import LEVELS
from nuclei.results.nuclei import Nuclei

SUMS = ("area", "y", "x", "yy", "yx", "xx", "intensity", "foreground")


def measure(
    labels: NDArray[np.uint32],
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    foreground: NDArray[np.uint8] | None,
    check: Callable[[], None] = lambda: None,
) -> Nuclei:
    """Measure every nucleus of a label image.

    Args:
        labels: uint32 [H, W], 0 is background; labels need not be consecutive.
        pixels: uint8 or uint16 [H, W, C].
        foreground: uint8 [H, W], 255 is probability 1; None makes all scores 0.
        check: called every few megapixels; an exception that it raises ends the work.
    """
    size = int(labels.max(initial=0)) + 1
    sums = np.zeros((size, len(SUMS)), np.int64)
    boxes = np.empty((size, 4), np.int32)
    boxes[:, :2], boxes[:, 2:] = np.iinfo(np.int32).max, 0
    rows = list(bands(*labels.shape))
    nothing = np.zeros((len(rows[0]), labels.shape[1]), np.uint8)
    for row in rows:
        check()
        band = slice(row.start, row.stop)
        _add(
            labels[band],
            pixels[band],
            nothing if foreground is None else foreground[band],
            row.start,
            sums,
            boxes,
        )
    present = np.flatnonzero(sums[:, 0])
    area = sums[present, 0]
    mean = dict(zip(SUMS, (sums[present] / area[:, None]).T, strict=True))
    return Nuclei(
        label=present.astype(np.uint32),
        area_px=area,
        centroid_px=np.stack([mean["y"], mean["x"]], axis=1).astype(np.float32),
        box_px=boxes[present],
        eccentricity=_eccentricity(
            mean["yy"] - mean["y"] ** 2,
            mean["xx"] - mean["x"] ** 2,
            mean["yx"] - mean["y"] * mean["x"],
        ),
        mean_intensity=(mean["intensity"] / pixels.shape[2]).astype(np.float32),
        score=(mean["foreground"] / LEVELS).astype(np.float32),
    )


def _eccentricity(
    var_y: NDArray[np.float64], var_x: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float32]:
    half_trace = (var_y + var_x) / 2
    half_gap = np.hypot((var_y - var_x) / 2, covariance)
    long = half_trace + half_gap
    ratio = np.divide(half_trace - half_gap, long, out=np.ones_like(long), where=long > 0)
    return np.asarray(np.sqrt(np.clip(1 - ratio, 0, 1)), np.float32)


def _adding(value: Any) -> Any:
    """Signature of `_add` for pixels of one type."""
    pixels = types.Array(value, 3, "C", readonly=True)
    return void(UINT32_2D, pixels, UINT8_2D, int64, int64[:, ::1], int32[:, ::1])


@kernel(_adding(uint8), _adding(uint16))
def _add(
    labels: NDArray[np.uint32],
    pixels: NDArray[Any],
    foreground: NDArray[np.uint8],
    start: int,
    sums: NDArray[np.int64],
    boxes: NDArray[np.int32],
) -> None:
    """Add the pixels of a band to the sums (as SUMS) and the boxes of their nuclei.

    Args:
        start: first row of the band in the frame.
    """
    height, width, channels = pixels.shape
    for row in range(height):
        y = start + row
        for x in range(width):
            label = labels[row, x]
            if label == 0:
                continue
            intensity = int64(0)
            for channel in range(channels):
                intensity += pixels[row, x, channel]
            of_nucleus, box = sums[label], boxes[label]
            of_nucleus[0] += 1
            of_nucleus[1] += y
            of_nucleus[2] += x
            of_nucleus[3] += y * y
            of_nucleus[4] += y * x
            of_nucleus[5] += x * x
            of_nucleus[6] += intensity
            of_nucleus[7] += foreground[row, x]
            box[0], box[1] = min(box[0], y), min(box[1], x)
            box[2], box[3] = max(box[2], y + 1), max(box[3], x + 1)
