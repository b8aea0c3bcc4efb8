"""Probability maps to labelled nuclei: a watershed whose shallow basins are merged.

The peaks of the smoothed distance map mark nuclei. Every pixel climbs to its highest neighbour
until it stands on a peak, and so finds its basin: flooding from the peaks (Meyer, Topographic
distance and watershed lines, Signal Processing 38, 1994) gives each pixel the same basin, because
its highest neighbour floods it, but needs a queue. Neighbouring basins merge when the lower of
their peaks stands less than `h` above the saddle between them; the result is that of markers by the
h-maxima transform (Soille, Morphological Image Analysis, 2nd ed., section 6.3.3), at a fraction of
the time.

All of it happens in the label image, in bands of rows: a pixel first holds whether it belongs to a
nucleus, then the pixel it climbs to, then its basin, then its nucleus. A frame of any size needs
little more memory than its labels, and there are no seams between the bands.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, ClassVar, Self

import cv2
import numpy as np
from numba import boolean, float32, float64, int64, uint32, void
from numpy.typing import NDArray
from pydantic import Field

from nuclei.jit import FLOAT32_2D, UINT8_2D, UINT32_2D, kernel
from nuclei.postprocessing.bands import bands
from nuclei.postprocessing.parameters import CHECKED, Area, Fraction, moved_along
from nuclei.postprocessing.probability import LEVELS

# cv2's kernel for float images reaches four standard deviations.
BLUR_REACH = 4
# Of the first look at a frame, which takes every second row and column: pixels.
STRIDE = 2
SMALLEST_PX = 4
# More would reach beyond a band, and be slow.
MAX_SMOOTHING_PX = 64.0
# Marks a pixel that holds the number of its basin, not yet the pixel it climbs to.
SETTLED = np.uint32(1 << 31)


@dataclass(frozen=True)
class WatershedParameters:
    """How probability maps become nuclei; tuned on validation images.

    Attributes:
        foreground_threshold: a pixel belongs to a nucleus above this probability, in (0, 1).
        h: two neighbouring peaks of the distance map are two nuclei when the lower peak
            stands at least this much above the saddle between them, in [0, 1].
        smoothing_px: least standard deviation of the Gaussian smoothing of the distance map,
            pixels.
        border_weight: how much of the touching-border probability is subtracted from the distance.
        min_area_px: smaller objects are discarded, pixels.
        min_score: objects whose mean foreground probability is below this are discarded, in [0, 1].
        smoothing_diameters: the same standard deviation as a part of the diameter of the frame's
            median nucleus, where that is more, in [0, 1]: bumps that make two nuclei of one are
            as large as the nuclei are. 0 does not look for the median nucleus.
    """

    __pydantic_config__: ClassVar = CHECKED

    foreground_threshold: Fraction = 0.6
    h: Fraction = 0.22
    smoothing_px: Annotated[float, Field(ge=0, le=MAX_SMOOTHING_PX)] = 1.5
    border_weight: Annotated[float, Field(ge=0, le=8)] = 0.75
    min_area_px: Area = 8
    min_score: Fraction = 0.8
    smoothing_diameters: Fraction = 0.0

    @property
    def threshold(self) -> float:
        """What decides how much is found."""
        return self.foreground_threshold

    def with_threshold(self, threshold: float) -> Self:
        """The same with another threshold, in (0, 1); the least score is moved along.

        Else a lower threshold would find faint nuclei, and the score leave them out again.
        """
        min_score = moved_along(self.min_score, self.foreground_threshold, threshold)
        return replace(self, foreground_threshold=threshold, min_score=min_score)


def label_nuclei(
    maps: NDArray[np.uint8],
    parameters: WatershedParameters,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.uint32]:
    """Label the nuclei of a frame.

    Args:
        maps: uint8 [3, H, W], contiguous, 255 is probability 1: foreground, touching border,
            distance; at most 2**31 - 1 pixels.
        parameters: see there.
        check: called every few megapixels; an exception that it raises ends the work.

    Returns:
        labels: uint32 [H, W], 0 is background, 1..N without gaps, in row-major order of each
        nucleus' highest peak.
    """
    sized = replace(parameters, smoothing_px=_smoothing_px(maps, parameters, check))
    labels, number, _ = _settled(maps, sized, check)
    for band in bands(*labels.shape):
        check()
        _renumber(labels, number, band.start, band.stop)
    return labels


def _smoothing_px(
    maps: NDArray[np.uint8], parameters: WatershedParameters, check: Callable[[], None]
) -> float:
    """The smoothing of a frame: by the median of the nuclei that a first look finds."""
    if not parameters.smoothing_diameters:
        return parameters.smoothing_px
    first = replace(
        parameters, smoothing_px=parameters.smoothing_px / STRIDE, min_area_px=SMALLEST_PX
    )
    coarse = np.ascontiguousarray(maps[:, ::STRIDE, ::STRIDE])
    _, _, areas = _settled(coarse, first, check)
    if not len(areas):
        return parameters.smoothing_px
    diameter = STRIDE * math.sqrt(4 * float(np.median(areas)) / math.pi)
    relative = min(parameters.smoothing_diameters * diameter, MAX_SMOOTHING_PX)
    return max(parameters.smoothing_px, relative)


def _settled(
    maps: NDArray[np.uint8], parameters: WatershedParameters, check: Callable[[], None]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
    """Pixels with the numbers of their basins, the nucleus of each basin, and areas of nuclei."""
    foreground, border, distance = maps
    labels = np.empty(foreground.shape, np.uint32)
    rows = list(bands(*foreground.shape))
    threshold = math.ceil(parameters.foreground_threshold * LEVELS)

    @lru_cache(maxsize=1)
    def landscape(band: range) -> NDArray[np.float32]:
        check()
        return _landscape(border, distance, band, parameters)

    for band in rows:
        _mark(labels, foreground, threshold, band.start, band.stop)
    for band in rows:
        check()
        _fill_holes(labels, max(parameters.min_area_px, 1), band.start, band.stop)
    peaks = _climb(labels, rows, landscape)
    area, total = np.zeros(len(peaks), np.int64), np.zeros(len(peaks), np.int64)
    for band in rows:
        check()
        _settle(labels, foreground, area, total, band.start, band.stop)
    saddles = _saddles(labels, rows, landscape, len(peaks))
    basins = _merge_shallow(*saddles, peaks, parameters.h)
    number, areas = _keep(basins, area, total, parameters)
    return labels, number, areas


Landscape = Callable[[range], NDArray[np.float32]]
Saddles = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]


def _landscape(
    border: NDArray[np.uint8],
    distance: NDArray[np.uint8],
    band: range,
    parameters: WatershedParameters,
) -> NDArray[np.float32]:
    """Heights in [0, 1], float32, of a band and of the row above and below it, where there is one.

    Smoothing looks beyond those rows, so the heights do not depend on the bands.
    """
    reach = math.ceil(BLUR_REACH * parameters.smoothing_px) + 1
    top, bottom = max(0, band.start - 1), min(len(border), band.stop + 1)
    first, last = max(0, top - reach), min(len(border), bottom + reach)
    heights = np.empty((last - first, border.shape[1]), np.float32)
    _height(border[first:last], distance[first:last], parameters.border_weight, heights)
    if parameters.smoothing_px > 0:
        cv2.GaussianBlur(heights, (0, 0), parameters.smoothing_px, dst=heights)
    return heights[top - first : bottom - first]


def _climb(
    labels: NDArray[np.uint32], rows: list[range], landscape: Landscape
) -> NDArray[np.float32]:
    """Write into every pixel the neighbour it climbs to; return the heights of the peaks."""
    peaks: list[NDArray[np.float32]] = []
    n_peaks = 0
    for band in rows:
        heights = landscape(band)
        # No two peaks are neighbours.
        found = np.empty((len(band) * labels.shape[1] + 1) // 2, np.float32)
        count = _climb_band(labels, heights, band.start, band.stop, n_peaks, found)
        peaks.append(found[:count].copy())
        n_peaks += count
    return np.concatenate(peaks)


def _saddles(
    labels: NDArray[np.uint32], rows: list[range], landscape: Landscape, n_basins: int
) -> Saddles:
    """(basin, basin, height of the saddle between them), highest first.

    In each band, only the saddles of a maximum spanning forest are kept: the two basins of any
    other saddle are already joined across higher ones, or stay apart because those are too deep.
    """
    found: list[Saddles] = []
    for band in rows:
        heights = landscape(band)
        count = _count_saddles(labels, band.start, band.stop)
        first, second = np.empty(count, np.uint32), np.empty(count, np.uint32)
        height = np.empty(count, np.float32)
        _list_saddles(labels, heights, band.start, band.stop, first, second, height)
        first, second, height = _highest_first(first, second, height)
        joins = _spanning_forest(first, second, n_basins)
        found.append((first[joins], second[joins], height[joins]))
    first, second, height = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return _highest_first(first, second, height)


def _highest_first(
    first: NDArray[np.uint32], second: NDArray[np.uint32], height: NDArray[np.float32]
) -> Saddles:
    order = np.argsort(-height, kind="stable")
    return first[order], second[order], height[order]


def _keep(
    basins: NDArray[np.uint32],
    area: NDArray[np.int64],
    total: NDArray[np.int64],
    parameters: WatershedParameters,
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Number of the nucleus of each basin, 0 where it is small or doubtful; areas of the nuclei.

    Args:
        basins: the basin that each was merged into.
        area: pixels of each basin.
        total: sum of the foreground over each basin, 255 is probability 1.
    """
    n_basins = len(basins)
    whole_area = np.bincount(basins, area, n_basins).astype(np.int64)
    score = np.bincount(basins, total, n_basins) / np.maximum(whole_area, 1) / LEVELS
    keep = (whole_area >= max(parameters.min_area_px, 1)) & (score >= parameters.min_score)
    return np.where(keep, np.cumsum(keep), 0).astype(np.uint32)[basins], whole_area[keep]


@kernel(void(uint32[:, ::1], UINT8_2D, int64, int64, int64))
def _mark(
    labels: NDArray[np.uint32],
    foreground: NDArray[np.uint8],
    threshold: int,
    start: int,
    stop: int,
) -> None:
    """1 where the foreground reaches the threshold, else 0."""
    for y in range(start, stop):
        for x in range(labels.shape[1]):
            labels[y, x] = foreground[y, x] >= threshold


@kernel(void(uint32[:, ::1], int64, int64, int64))
def _fill_holes(labels: NDArray[np.uint32], smallest: int, start: int, stop: int) -> None:
    """Fill background holes of fewer than `smallest` pixels whose first pixel is in these rows.

    A hole is 4-connected. It is entered at a pixel that has none of it above or to the left, and
    followed for at most `smallest` pixels.
    """
    height, width = labels.shape
    flat = labels.reshape(-1)
    hole = np.empty(smallest, np.int64)
    for y in range(start, stop):
        for x in range(width):
            entered = (
                labels[y, x] == 0
                and (x == 0 or labels[y, x - 1] != 0)
                and (y == 0 or labels[y - 1, x] != 0)
            )
            if not entered:
                continue
            hole[0] = y * width + x
            labels[y, x] = 1
            size, seen = 1, 0
            while seen < size < smallest:
                at = hole[seen]
                row, column = at // width, at % width
                seen += 1
                for step in range(4):
                    near = at + (-width, -1, 1, width)[step]
                    inside = (row > 0, column > 0, column < width - 1, row < height - 1)[step]
                    if inside and size < smallest and flat[near] == 0:
                        flat[near] = 1
                        hole[size] = near
                        size += 1
            if size == smallest:
                for k in range(size):
                    flat[hole[k]] = 0


@kernel(void(UINT8_2D, UINT8_2D, float32, float32[:, ::1]))
def _height(
    border: NDArray[np.uint8],
    distance: NDArray[np.uint8],
    border_weight: float,
    heights: NDArray[np.float32],
) -> None:
    """Distance minus the weighted border, at least 0; 255 becomes 1."""
    height, width = border.shape
    for y in range(height):
        for x in range(width):
            value = np.float32(distance[y, x]) - border_weight * np.float32(border[y, x])
            heights[y, x] = max(value, np.float32(0)) / np.float32(LEVELS)


@kernel(int64(uint32[:, ::1], FLOAT32_2D, int64, int64, int64, float32[::1]))
def _climb_band(
    labels: NDArray[np.uint32],
    heights: NDArray[np.float32],
    start: int,
    stop: int,
    n_peaks: int,
    peaks: NDArray[np.float32],
) -> int:
    """Put into each pixel of the mask 1 + the flat index of the neighbour it climbs to.

    That is the highest of its four neighbours in the mask, or on a plateau the one above or to the
    left, so no two pixels climb to each other. A pixel with no such neighbour is a peak and gets
    its number, with SETTLED; a plateau may hold several, which merge at depth 0.

    Returns:
        The number of peaks; their heights are in `peaks`.
    """
    height, width = labels.shape
    top = max(0, start - 1)
    count = 0
    for y in range(start, stop):
        row = y - top
        for x in range(width):
            if labels[y, x] == 0:
                continue
            best, target = heights[row, x], -1
            if x > 0 and labels[y, x - 1] != 0 and heights[row, x - 1] >= best:
                best, target = heights[row, x - 1], y * width + x - 1
            if y > 0 and labels[y - 1, x] != 0 and heights[row - 1, x] >= best:
                best, target = heights[row - 1, x], (y - 1) * width + x
            if x < width - 1 and labels[y, x + 1] != 0 and heights[row, x + 1] > best:
                best, target = heights[row, x + 1], y * width + x + 1
            if y < height - 1 and labels[y + 1, x] != 0 and heights[row + 1, x] > best:
                best, target = heights[row + 1, x], (y + 1) * width + x
            if target < 0:
                peaks[count] = best
                labels[y, x] = SETTLED | np.uint32(n_peaks + count)
                count += 1
            else:
                labels[y, x] = np.uint32(target + 1)
    return count


@kernel(void(uint32[:, ::1], UINT8_2D, int64[::1], int64[::1], int64, int64))
def _settle(
    labels: NDArray[np.uint32],
    foreground: NDArray[np.uint8],
    area: NDArray[np.int64],
    total: NDArray[np.int64],
    start: int,
    stop: int,
) -> None:
    """Let each pixel of these rows climb to its peak and take its number; measure the basins."""
    width = labels.shape[1]
    flat = labels.reshape(-1)
    for y in range(start, stop):
        for x in range(width):
            value = labels[y, x]
            if value == 0:
                continue
            while value < SETTLED:
                value = flat[value - 1]
            basin = value & ~SETTLED
            area[basin] += 1
            total[basin] += foreground[y, x]
            step = labels[y, x]
            labels[y, x] = value
            while step < SETTLED:
                beyond = flat[step - 1]
                flat[step - 1] = value
                step = beyond


@kernel(int64(UINT32_2D, int64, int64))
def _count_saddles(labels: NDArray[np.uint32], start: int, stop: int) -> int:
    """Pairs of neighbouring pixels, to the right and below, of two basins."""
    height, width = labels.shape
    count = 0
    for y in range(start, stop):
        for x in range(width):
            here = labels[y, x]
            if here == 0:
                continue
            if x < width - 1 and labels[y, x + 1] != 0 and labels[y, x + 1] != here:
                count += 1
            if y < height - 1 and labels[y + 1, x] != 0 and labels[y + 1, x] != here:
                count += 1
    return count


@kernel(void(UINT32_2D, FLOAT32_2D, int64, int64, uint32[::1], uint32[::1], float32[::1]))
def _list_saddles(
    labels: NDArray[np.uint32],
    heights: NDArray[np.float32],
    start: int,
    stop: int,
    first: NDArray[np.uint32],
    second: NDArray[np.uint32],
    saddle: NDArray[np.float32],
) -> None:
    """The basins of those pairs, and the height of the lower pixel."""
    height, width = labels.shape
    top = max(0, start - 1)
    count = 0
    for y in range(start, stop):
        row = y - top
        for x in range(width):
            here = labels[y, x]
            if here == 0:
                continue
            for down in range(2):
                right = 1 - down
                if x + right == width or y + down == height:
                    continue
                there = labels[y + down, x + right]
                if there != 0 and there != here:
                    first[count], second[count] = here & ~SETTLED, there & ~SETTLED
                    saddle[count] = min(heights[row, x], heights[row + down, x + right])
                    count += 1


@kernel(uint32(uint32[::1], uint32))
def _root(parent: NDArray[np.uint32], basin: int) -> int:
    """The basin that this one was merged into; halves the path to it (Tarjan)."""
    while parent[basin] != basin:
        parent[basin] = parent[parent[basin]]
        basin = parent[basin]
    return basin


@kernel(boolean[::1](uint32[::1], uint32[::1], int64))
def _spanning_forest(
    first: NDArray[np.uint32], second: NDArray[np.uint32], n_basins: int
) -> NDArray[np.bool_]:
    """Which pairs, taken in this order, join basins that are not joined yet (Kruskal)."""
    parent = np.arange(n_basins).astype(np.uint32)
    joins = np.zeros(len(first), np.bool_)
    for k in range(len(first)):
        a, b = _root(parent, first[k]), _root(parent, second[k])
        if a != b:
            parent[b] = a
            joins[k] = True
    return joins


@kernel(uint32[::1](uint32[::1], uint32[::1], float32[::1], float32[::1], float64))
def _merge_shallow(
    first: NDArray[np.uint32],
    second: NDArray[np.uint32],
    saddle: NDArray[np.float32],
    peaks: NDArray[np.float32],
    h: float,
) -> NDArray[np.uint32]:
    """Merge basins across shallow saddles, in this order, into the one with the higher peak."""
    parent = np.arange(len(peaks)).astype(np.uint32)
    for k in range(len(first)):
        a, b = _root(parent, first[k]), _root(parent, second[k])
        depth = float64(min(peaks[a], peaks[b])) - float64(saddle[k])
        if a != b and (depth < h or depth == 0):
            higher, lower = (a, b) if peaks[a] >= peaks[b] else (b, a)
            parent[lower] = higher
    for basin in range(len(peaks)):
        parent[basin] = _root(parent, basin)
    return parent


@kernel(void(uint32[:, ::1], uint32[::1], int64, int64))
def _renumber(
    labels: NDArray[np.uint32], number: NDArray[np.uint32], start: int, stop: int
) -> None:
    """Replace every settled basin by the number of its nucleus."""
    for y in range(start, stop):
        for x in range(labels.shape[1]):
            if labels[y, x] != 0:
                labels[y, x] = number[labels[y, x] & ~SETTLED]
