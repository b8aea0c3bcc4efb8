"""Nuclei found one by one, rendered into one label image in the order of their scores.

Detectors of masks and of star-convex polygons find a nucleus more than once: at neighbouring
pixels, in overlapping tiles, in several views. So rendering is also the non-maximum suppression: a
nucleus is left out when nuclei with higher scores cover more than a given part of it; any other
gets the pixels that are still free. Each nucleus is drawn within its own box, so the time grows
with the pixels of the nuclei, not with those of the frame.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numba import boolean, float32, float64, int64, types, uint8, uint32, void
from numpy.typing import NDArray

from nuclei.jit import kernel
from nuclei.postprocessing.parameters import CHECKED, Area, Fraction
from nuclei.postprocessing.probability import LEVELS

# Pixels of boxes that are drawn at once.
PART_PX = 2**22

_MASK = types.Array(uint8, 2, "C", readonly=True)
_MASKS = types.Array(uint8, 3, "C", readonly=True)
_ROWS = types.Array(float32, 2, "C", readonly=True)
_ROW = types.Array(float32, 1, "C", readonly=True)
_ORDER = types.Array(int64, 1, "C", readonly=True)
_DRAWN = boolean[:, ::1]
_LABELS = uint32[:, ::1]


@dataclass(frozen=True)
class RenderingParameters:
    """How nuclei found one by one become a label image; tuned on validation images.

    Attributes:
        min_score: nuclei with a lower score are left out, in [0, 1].
        overlap: nuclei are left out when nuclei with higher scores cover more than this part of
            them, in [0, 1].
        min_area_px: nuclei with fewer free pixels are left out.
    """

    __pydantic_config__: ClassVar = CHECKED

    min_score: Fraction = 0.5
    overlap: Fraction = 0.4
    min_area_px: Area = 8

    @property
    def threshold(self) -> float:
        """What decides how much is found."""
        return self.min_score

    def with_threshold(self, threshold: float) -> Self:
        """The same with another threshold, in (0, 1)."""
        return replace(self, min_score=threshold)


def render_masks(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    masks: NDArray[np.uint8],
    shape: tuple[int, int],
    overlap: float,
    min_area_px: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Render nuclei that are given as small masks stretched over boxes.

    A mask's values lie at the centres of a grid over its box and are interpolated linearly; its
    pixels are those whose centre is above one half (as He et al. 2017, section 3.1, paste them).

    Args:
        boxes: float32 [N, 4], (y0, x0, y1, x1), pixels, (0, 0) the upper left of the frame.
        scores: float32 [N]; the nucleus with the highest score is rendered first.
        masks: uint8 [N, M, M], 255 is probability 1.
        shape: (H, W) of the frame.
        overlap: part of its pixels, in [0, 1], that nuclei with higher scores may cover.
        min_area_px: nuclei with fewer free pixels are left out.
        check: called every few megapixels of boxes; an exception that it raises ends the work.

    Returns:
        labels: uint32 [H, W], 0 is background, 1..K without gaps, by falling score.
        scores: float32 [K], of each label.
    """
    order = _by_falling_score(scores)
    labels = np.zeros(shape, np.uint32)
    kept = np.zeros(len(order), np.int64)
    sides = boxes[:, 2:] - boxes[:, :2]
    count = 0
    for part in _parts(order, sides.prod(axis=1)):
        check()
        count = _render_masks(labels, boxes, masks, part, overlap, min_area_px, kept, count)
    return labels, scores[kept[:count]]


def render_stars(
    points: NDArray[np.float32],
    scores: NDArray[np.float32],
    rays: NDArray[np.float32],
    shape: tuple[int, int],
    overlap: float,
    min_area_px: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Render nuclei that are given as star-convex polygons (Schmidt et al. 2018, section 2).

    Args:
        points: float32 [N, 2], (y, x) where the rays start; (0, 0) is the centre of the first
            pixel.
        scores: float32 [N]; the nucleus with the highest score is rendered first.
        rays: float32 [N, R], lengths in pixels at the angles 2 pi k / R, from +x towards +y.
        shape, overlap, min_area_px, check, and the result: as for `render_masks`.
    """
    order = _by_falling_score(scores)
    labels = np.zeros(shape, np.uint32)
    kept = np.zeros(len(order), np.int64)
    sides = 2 * rays.max(axis=1, initial=0)
    count = 0
    for part in _parts(order, sides**2):
        check()
        count = _render_stars(labels, points, rays, part, overlap, min_area_px, kept, count)
    return labels, scores[kept[:count]]


def _by_falling_score(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argsort(-scores, kind="stable").astype(np.int64)


def _parts(order: NDArray[np.int64], areas: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """The nuclei in this order, cut where their boxes have about PART_PX pixels together."""
    sums = np.cumsum(areas[order], dtype=np.float64)
    return np.split(order, np.flatnonzero(np.diff(sums // PART_PX)) + 1)


@kernel(float64(_MASK, float64, float64))
def _interpolated(mask: NDArray[np.uint8], v: float, u: float) -> float:
    """Value at row v, column u of a mask; 0 beyond its outermost values."""
    size = mask.shape[0]
    row, column = int64(math.floor(v)), int64(math.floor(u))
    value = 0.0
    for i in range(row, row + 2):
        for j in range(column, column + 2):
            if 0 <= i < size and 0 <= j < size:
                value += mask[i, j] * (1 - abs(v - i)) * (1 - abs(u - j))
    return value


@kernel(void(_DRAWN, _MASK, _ROW, int64, int64))
def _draw_mask(
    drawn: NDArray[np.bool_], mask: NDArray[np.uint8], box: NDArray[np.float32], top: int, left: int
) -> None:
    size = mask.shape[0]
    for y in range(drawn.shape[0]):
        v = (top + y + 0.5 - box[0]) / (box[2] - box[0]) * size - 0.5
        for x in range(drawn.shape[1]):
            u = (left + x + 0.5 - box[1]) / (box[3] - box[1]) * size - 0.5
            drawn[y, x] = _interpolated(mask, v, u) > LEVELS / 2


@kernel(void(_DRAWN, _ROW, _ROW, int64, int64))
def _draw_star(
    drawn: NDArray[np.bool_],
    point: NDArray[np.float32],
    rays: NDArray[np.float32],
    top: int,
    left: int,
) -> None:
    sector = 2 * math.pi / len(rays)
    for y in range(drawn.shape[0]):
        dy = top + y - point[0]
        for x in range(drawn.shape[1]):
            dx = left + x - point[1]
            k = int64(math.floor((math.atan2(dy, dx) % (2 * math.pi)) / sector)) % len(rays)
            angle = k * sector
            y0, x0 = rays[k] * math.sin(angle), rays[k] * math.cos(angle)
            following = rays[(k + 1) % len(rays)]
            y1, x1 = following * math.sin(angle + sector), following * math.cos(angle + sector)
            drawn[y, x] = (x1 - x0) * (dy - y0) - (y1 - y0) * (dx - x0) >= 0


@kernel(boolean(_LABELS, _DRAWN, int64, int64, uint32, float64, int64))
def _claim(
    labels: NDArray[np.uint32],
    drawn: NDArray[np.bool_],
    top: int,
    left: int,
    label: int,
    overlap: float,
    min_area_px: int,
) -> bool:
    """Give the free pixels of a drawing to a label, unless too few of them are free."""
    own, taken = 0, 0
    for y in range(drawn.shape[0]):
        for x in range(drawn.shape[1]):
            if drawn[y, x]:
                own += 1
                taken += labels[top + y, left + x] != 0
    if own == taken or taken > overlap * own or own - taken < min_area_px:
        return False
    for y in range(drawn.shape[0]):
        for x in range(drawn.shape[1]):
            if drawn[y, x] and labels[top + y, left + x] == 0:
                labels[top + y, left + x] = label
    return True


@kernel(int64(_LABELS, _ROWS, _MASKS, _ORDER, float64, int64, int64[::1], int64))
def _render_masks(
    labels: NDArray[np.uint32],
    boxes: NDArray[np.float32],
    masks: NDArray[np.uint8],
    order: NDArray[np.int64],
    overlap: float,
    min_area_px: int,
    kept: NDArray[np.int64],
    count: int,
) -> int:
    """Return how many nuclei are rendered, after `count`; `kept` receives their indices."""
    height, width = labels.shape
    for index in order:
        box = boxes[index]
        top, left = max(0, int64(math.floor(box[0]))), max(0, int64(math.floor(box[1])))
        bottom = min(height, int64(math.ceil(box[2])))
        right = min(width, int64(math.ceil(box[3])))
        if bottom <= top or right <= left:
            continue
        drawn = np.zeros((bottom - top, right - left), np.bool_)
        _draw_mask(drawn, masks[index], box, top, left)
        if _claim(labels, drawn, top, left, count + 1, overlap, min_area_px):
            kept[count] = index
            count += 1
    return count


@kernel(int64(_LABELS, _ROWS, _ROWS, _ORDER, float64, int64, int64[::1], int64))
def _render_stars(
    labels: NDArray[np.uint32],
    points: NDArray[np.float32],
    rays: NDArray[np.float32],
    order: NDArray[np.int64],
    overlap: float,
    min_area_px: int,
    kept: NDArray[np.int64],
    count: int,
) -> int:
    """Return how many nuclei are rendered, after `count`; `kept` receives their indices."""
    height, width = labels.shape
    for index in order:
        y, x, reach = points[index, 0], points[index, 1], float64(rays[index].max())
        top, left = max(0, int64(math.ceil(y - reach))), max(0, int64(math.ceil(x - reach)))
        bottom = min(height, int64(math.floor(y + reach)) + 1)
        right = min(width, int64(math.floor(x + reach)) + 1)
        if bottom <= top or right <= left:
            continue
        drawn = np.zeros((bottom - top, right - left), np.bool_)
        _draw_star(drawn, points[index], rays[index], top, left)
        if _claim(labels, drawn, top, left, count + 1, overlap, min_area_px):
            kept[count] = index
            count += 1
    return count
