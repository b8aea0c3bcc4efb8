"""Probability maps to labelled nuclei: a watershed whose shallow basins are merged.

The peaks of the distance map mark nuclei. Neighbouring basins of a watershed merge when the lower
of their peaks stands less than `saddle_depth` above the saddle between them; this equals markers by
the h-maxima transform (Soille, Morphological Image Analysis, 2nd ed., section 6.3.3) at a fraction
of its cost.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from nuclei.contract import WatershedParameters

LEVELS = 255


def label_nuclei(maps: NDArray[np.uint8], parameters: WatershedParameters) -> NDArray[np.uint32]:
    """Label the nuclei of a frame.

    Args:
        maps: uint8 [3, H, W], 255 is probability 1: foreground, touching border, distance.
        parameters: thresholds, tuned on validation images.

    Returns:
        labels: uint32 [H, W], 0 is background, 1..N without gaps, in row-major order of each
        nucleus' highest peak.
    """
    foreground, border, distance = maps
    mask = _fill_holes(foreground >= parameters.foreground_threshold * LEVELS, parameters)
    landscape = _landscape(border, distance, mask, parameters)
    basins = _basins(landscape, mask)
    nuclei = _merge_shallow(basins, landscape, parameters.saddle_depth)
    return _discard(nuclei, foreground, parameters)


def _fill_holes(mask: NDArray[np.bool_], parameters: WatershedParameters) -> NDArray[np.bool_]:
    """Fill background holes smaller than the smallest nucleus."""
    background = (~mask).astype(np.uint8)
    _, holes, stats, _ = cv2.connectedComponentsWithStats(background, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < parameters.min_area_px
    small[0] = False
    return np.asarray(mask | small[holes])


def _landscape(
    border: NDArray[np.uint8],
    distance: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    parameters: WatershedParameters,
) -> NDArray[np.float32]:
    """Height of every pixel, float32 [H, W] in [0, 1] on the mask, -1 outside."""
    height = distance - np.float32(parameters.border_weight) * border
    height = np.maximum(height, 0) / np.float32(LEVELS)
    if parameters.smoothing_px > 0:
        height = np.asarray(cv2.GaussianBlur(height, (0, 0), parameters.smoothing_px), np.float32)
    return np.where(mask, height, np.float32(-1))


def _basins(landscape: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """One basin per regional maximum; int32 [H, W], 0 outside the mask."""
    peaks = (cv2.dilate(landscape, np.ones((3, 3), np.uint8)) == landscape) & mask
    markers = np.empty(mask.shape, np.int32)
    cv2.connectedComponents(peaks.astype(np.uint8), markers, connectivity=8)
    basins: NDArray[np.int32] = watershed(-landscape, markers, mask=mask)
    return basins


def _merge_shallow(
    basins: NDArray[np.int32], landscape: NDArray[np.float32], saddle_depth: float
) -> NDArray[np.int32]:
    """Merge basins across saddles that are too shallow, the highest saddles first."""
    n_basins = int(basins.max(initial=0))
    if n_basins < 2:
        return basins
    first, second, saddle = _saddles(basins, landscape)
    peak = ndimage.maximum(landscape, basins, np.arange(n_basins + 1)).tolist()
    parent = list(range(n_basins + 1))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = parent[parent[basin]]
            basin = parent[basin]
        return basin

    for a, b, height in zip(first.tolist(), second.tolist(), saddle.tolist(), strict=True):
        a, b = root(a), root(b)
        if a != b and min(peak[a], peak[b]) - height < saddle_depth:
            higher, lower = (a, b) if peak[a] >= peak[b] else (b, a)
            parent[lower] = higher
    return np.array([root(basin) for basin in range(n_basins + 1)], np.int32)[basins]


def _saddles(
    basins: NDArray[np.int32], landscape: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(basin, basin, height of the saddle between them) of all neighbours, highest first."""
    n_basins = int(basins.max()) + 1
    pairs, heights = [], []
    for here, there in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        a, b = basins[here], basins[there]
        meet = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a[meet], b[meet]), np.maximum(a[meet], b[meet])
        pairs.append(low.astype(np.int64) * n_basins + high)
        heights.append(np.minimum(landscape[here][meet], landscape[there][meet]))
    pair, height = np.concatenate(pairs), np.concatenate(heights)
    order = np.argsort(-height, kind="stable")
    pair, height = pair[order], height[order]
    _, highest = np.unique(pair, return_index=True)
    highest.sort()
    return *np.divmod(pair[highest], n_basins), height[highest]


def _discard(
    nuclei: NDArray[np.int32], foreground: NDArray[np.uint8], parameters: WatershedParameters
) -> NDArray[np.uint32]:
    """Drop small and doubtful objects and number the others without gaps."""
    area = np.bincount(nuclei.ravel())
    score = np.bincount(nuclei.ravel(), foreground.ravel()) / np.maximum(area, 1) / LEVELS
    keep = (area >= max(parameters.min_area_px, 1)) & (score >= parameters.min_score)
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0).astype(np.uint32)
    return number[nuclei]
