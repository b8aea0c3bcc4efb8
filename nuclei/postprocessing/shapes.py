"""Features of nuclei that only tables hold: shape, intensity by channel, neighbours.

Those that every answer carries are in `measurement`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float64, int64, types, uint8, uint16, void
from numpy.typing import NDArray
from scipy.spatial import KDTree

from nuclei.imaging.images import Frame
from nuclei.jit import UINT32_2D, inlined, kernel
from nuclei.postprocessing.bands import bands
from nuclei.results.coordinates import PixelSize
from nuclei.results.nuclei import Nuclei

# A border pixel adds to the perimeter by how many of its neighbours are border pixels, too:
# 1 + 2 for each one beside it + 10 for each one at a corner is an index of these lengths.
_BESIDE, _AT_CORNER = 2, 10
_LENGTHS = np.zeros(1 + 4 * (_BESIDE + _AT_CORNER) + 1)
_LENGTHS[[5, 7, 15, 17, 25, 27]] = 1
_LENGTHS[[21, 33]] = math.sqrt(2)
_LENGTHS[[13, 23]] = (1 + math.sqrt(2)) / 2

SUMS = ("y", "x", "yy", "yx", "xx")
INTENSITY = ("sum", "squares", "min", "max")

# Rounding must not leave out a pixel whose centre is on the edge of a hull.
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Shapes:
    """Features of N nuclei, rows as those of `Nuclei`; named as in scikit-image's `regionprops`.

    Attributes:
        perimeter_px: float64 [N], of lines through the centres of border pixels (Benkrid and
            Crookes, 2000: Design and FPGA Implementation of a Perimeter Estimator).
        axis_major_length_px: float64 [N], of the ellipse with the same second moments.
        axis_minor_length_px: float64 [N], as above.
        orientation: float64 [N], angle of the major axis from the vertical, counter-clockwise on
            the screen, radians in [-pi/2, pi/2].
        solidity: float64 [N], area over the area of the convex hull; 1 is convex.
        intensity_mean: float64 [N, C], by channel, in the units of the frame.
        intensity_std: float64 [N, C], as above.
        intensity_min: float64 [N, C], as above.
        intensity_max: float64 [N, C], as above.
        on_border: bool [N], whether it touches the frame's border and may be cut by it.
        neighbor: uint32 [N], label of the nucleus whose centroid is nearest, 0 where there is none.
        neighbor_distance_px: float64 [N], between the centroids; NaN where there is none.
    """

    perimeter_px: NDArray[np.float64]
    axis_major_length_px: NDArray[np.float64]
    axis_minor_length_px: NDArray[np.float64]
    orientation: NDArray[np.float64]
    solidity: NDArray[np.float64]
    intensity_mean: NDArray[np.float64]
    intensity_std: NDArray[np.float64]
    intensity_min: NDArray[np.float64]
    intensity_max: NDArray[np.float64]
    on_border: NDArray[np.bool_]
    neighbor: NDArray[np.uint32]
    neighbor_distance_px: NDArray[np.float64]


def shapes(
    labels: NDArray[np.uint32],
    nuclei: Nuclei,
    frame: Frame,
    check: Callable[[], None] = lambda: None,
) -> Shapes:
    """Measure every nucleus of a label image, as scikit-image's `regionprops` would.

    Args:
        labels: uint32 [H, W], 0 is background, the others are the labels of `nuclei`.
        nuclei: what was measured of the same labels.
        frame: whose pixels they are; where these are not square, the nearest neighbour is found in
            micrometres.
        check: called every few megapixels; an exception that it raises ends the work.
    """
    count, (height, width) = len(nuclei), labels.shape
    # The columns of a reply lie in memory one after the other.
    box = np.ascontiguousarray(nuclei.box_px, np.int64)
    row = np.zeros(int(nuclei.label.max(initial=0)) + 1, np.int64)
    row[nuclei.label] = np.arange(count)
    # The leftmost and rightmost pixel in each row of each box, one box after the other.
    start = np.concatenate([[0], np.cumsum(box[:, 2] - box[:, 0])])
    extent = np.empty((start[-1], 2), np.int64)
    extent[:] = width, -1
    origin = np.ascontiguousarray(np.rint(nuclei.centroid_px), np.int64)
    sums = np.zeros((count, len(SUMS)), np.int64)
    intensity = np.zeros((count, frame.pixels.shape[2], len(INTENSITY)), np.int64)
    intensity[:, :, INTENSITY.index("min")] = np.iinfo(np.int64).max
    perimeter = np.zeros(count)
    for band in bands(height, width):
        check()
        rows = band.start, band.stop
        _add(labels, frame.pixels, *rows, row, origin, sums, intensity, box, start, extent)
        _add_lengths(labels, *rows, row, _LENGTHS, perimeter)
    hulls = np.zeros(count, np.int64)
    _count_in_hulls(start, extent, hulls)
    major, minor, orientation = _ellipses(nuclei.area_px, sums)
    mean, std, lowest, highest = _statistics(nuclei.area_px, intensity)
    neighbor, distance = _nearest(nuclei, frame.pixel_size_um)
    return Shapes(
        perimeter_px=perimeter,
        axis_major_length_px=major,
        axis_minor_length_px=minor,
        orientation=orientation,
        solidity=nuclei.area_px / hulls,
        intensity_mean=frame.scale.offset + frame.scale.step * mean,
        intensity_std=frame.scale.step * std,
        intensity_min=frame.scale.offset + frame.scale.step * lowest,
        intensity_max=frame.scale.offset + frame.scale.step * highest,
        on_border=(box[:, :2] == 0).any(axis=1) | (box[:, 2:] == labels.shape).any(axis=1),
        neighbor=neighbor,
        neighbor_distance_px=distance,
    )


def _ellipses(
    area: NDArray[np.int64], sums: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Major axis, minor axis, orientation; float64 [N] each."""
    y, x, yy, yx, xx = (sums / area[:, None]).T
    var_y, var_x, covariance = yy - y * y, xx - x * x, yx - y * x
    half_trace = (var_y + var_x) / 2
    half_gap = np.hypot((var_y - var_x) / 2, covariance)
    major = 4 * np.sqrt(half_trace + half_gap)
    minor = 4 * np.sqrt(np.maximum(half_trace - half_gap, 0))
    return major, minor, np.arctan2(2 * covariance, var_y - var_x) / 2


def _statistics(
    area: NDArray[np.int64], intensity: NDArray[np.int64]
) -> tuple[NDArray[np.float64], ...]:
    """Mean, standard deviation, lowest, highest of stored pixels; float64 [N, C] each."""
    total, squares, lowest, highest = np.moveaxis(intensity, 2, 0)
    mean = total / area[:, None]
    variance = squares / area[:, None] - mean**2
    return mean, np.sqrt(np.maximum(variance, 0)), lowest / 1, highest / 1


def _nearest(
    nuclei: Nuclei, pixel_size_um: PixelSize | None
) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    """Label of the nearest nucleus and the distance in pixels."""
    if len(nuclei) < 2:
        return np.zeros(len(nuclei), np.uint32), np.full(len(nuclei), np.nan)
    centroid = nuclei.centroid_px.astype(np.float64)
    points = centroid * (1 if pixel_size_um is None else np.array(pixel_size_um))
    # The nearest of all is the nucleus itself, unless another has the same centroid.
    _, found = KDTree(points).query(points, k=2)
    itself = np.arange(len(nuclei))
    other = np.where(found[:, 0] == itself, found[:, 1], found[:, 0])
    distance = np.linalg.norm(centroid - centroid[other], axis=1)
    return nuclei.label[other], distance


def _adding(value: Any) -> Any:
    """Signature of `_add` for pixels of one type."""
    pixels = types.Array(value, 3, "C", readonly=True)
    table, column = int64[:, ::1], int64[::1]
    return void(
        *(UINT32_2D, pixels, int64, int64, column),
        *(table, table, int64[:, :, ::1], table, column, table),
    )


@kernel(_adding(uint8), _adding(uint16))
def _add(
    labels: NDArray[np.uint32],
    pixels: NDArray[Any],
    first: int,
    last: int,
    row: NDArray[np.int64],
    origin: NDArray[np.int64],
    sums: NDArray[np.int64],
    intensity: NDArray[np.int64],
    box: NDArray[np.int64],
    start: NDArray[np.int64],
    extent: NDArray[np.int64],
) -> None:
    """Add rows first to last - 1 of a frame to the sums and extents of their nuclei."""
    _, width, channels = pixels.shape
    for y in range(first, last):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            n = row[label]
            dy, dx = y - origin[n, 0], x - origin[n, 1]
            of_nucleus = sums[n]
            of_nucleus[0] += dy
            of_nucleus[1] += dx
            of_nucleus[2] += dy * dy
            of_nucleus[3] += dy * dx
            of_nucleus[4] += dx * dx
            for channel in range(channels):
                value = int64(pixels[y, x, channel])
                of_channel = intensity[n, channel]
                of_channel[0] += value
                of_channel[1] += value * value
                of_channel[2] = min(of_channel[2], value)
                of_channel[3] = max(of_channel[3], value)
            ends = extent[start[n] + y - box[n, 0]]
            ends[0], ends[1] = min(ends[0], x), max(ends[1], x)


@inlined
def _is_border(labels: NDArray[np.uint32], y: int, x: int, label: int) -> bool:
    """Whether a pixel has this label, and one of the four beside it has not."""
    height, width = labels.shape
    if not (0 <= y < height and 0 <= x < width) or labels[y, x] != label:
        return False
    if y == 0 or x == 0 or y == height - 1 or x == width - 1:
        return True
    return bool(
        labels[y - 1, x] != label
        or labels[y + 1, x] != label
        or labels[y, x - 1] != label
        or labels[y, x + 1] != label
    )


@kernel(void(UINT32_2D, int64, int64, int64[::1], float64[::1], float64[::1]))
def _add_lengths(
    labels: NDArray[np.uint32],
    first: int,
    last: int,
    row: NDArray[np.int64],
    lengths: NDArray[np.float64],
    perimeter: NDArray[np.float64],
) -> None:
    """Add the border pixels in rows first to last - 1 to the perimeters of their nuclei."""
    width = labels.shape[1]
    for y in range(first, last):
        for x in range(width):
            label = labels[y, x]
            if label == 0 or not _is_border(labels, y, x, label):
                continue
            code = 1
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if (dy != 0 or dx != 0) and _is_border(labels, y + dy, x + dx, label):
                        code += _BESIDE if dy == 0 or dx == 0 else _AT_CORNER
            perimeter[row[label]] += lengths[code]


@kernel(void(int64[::1], int64[:, ::1], int64[::1]))
def _count_in_hulls(
    start: NDArray[np.int64], extent: NDArray[np.int64], hulls: NDArray[np.int64]
) -> None:
    """Count the pixels whose centres are in the convex hull of a nucleus's pixels.

    A pixel is the four middles of its sides there, as in scikit-image's `convex_hull_image`.
    """
    for n in range(len(hulls)):
        height = start[n + 1] - start[n]
        # Of each half row the outermost x on either side, mirrored on the right: both are then
        # hulls from below.
        sides = np.full((2, 2 * height + 1), np.inf)
        for r in range(height):
            x0, x1 = extent[start[n] + r]
            if x1 < 0:
                continue
            for side in range(2):
                x = float64(x0 if side == 0 else -x1)
                sides[side, 2 * r] = min(sides[side, 2 * r], x)
                sides[side, 2 * r + 1] = x - 0.5
                sides[side, 2 * r + 2] = min(sides[side, 2 * r + 2], x)
        stack = np.empty(2 * height + 1, np.int64)
        for side in range(2):
            profile = sides[side]
            size = 0
            for k in range(2 * height + 1):
                if profile[k] == np.inf:
                    continue
                while size > 1:
                    a, b = stack[size - 2], stack[size - 1]
                    if (profile[b] - profile[a]) * (k - a) < (profile[k] - profile[a]) * (b - a):
                        break
                    size -= 1
                stack[size] = k
                size += 1
            for i in range(size - 1):
                a, b = stack[i], stack[i + 1]
                slope = (profile[b] - profile[a]) / (b - a)
                for k in range(a + 1, b):
                    profile[k] = profile[a] + slope * (k - a)
        for r in range(height):
            x0, x1 = sides[0, 2 * r + 1], -sides[1, 2 * r + 1]
            hulls[n] += int64(math.floor(x1 + _TOLERANCE)) - int64(math.ceil(x0 - _TOLERANCE)) + 1
