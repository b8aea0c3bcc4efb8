"""Label images to the maps a network learns: foreground, touching border, distance."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label
from torch import Tensor

BORDER_REACH_PX = 2
CLOSENESS_PX = 5.0
# Smaller parts of nuclei, cut off by the edge of a crop, are of no use for training.
MIN_AREA_PX = 8


def target_maps(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Targets of one label image.

    Args:
        labels: uint16 [H, W], 0 is background.

    Returns:
        float32 [3, H, W] in [0, 1]: foreground; border, the pixels within 2 pixels of two different
        nuclei; distance, the Euclidean distance of a pixel to the outside of its nucleus,
        divided by the largest distance in that nucleus.
    """
    return np.stack([(labels > 0).astype(np.float32), touching_border(labels), distance(labels)])


def touching_border(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """1 where two different nuclei lie within `BORDER_REACH_PX`; float32 [H, W]."""
    highest, lowest = _neighbouring_labels(labels, BORDER_REACH_PX)
    return ((highest > 0) & (lowest < highest)).astype(np.float32)


def distance(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Distance to the outside of a pixel's nucleus, 1 at its deepest pixel; float32 [H, W]."""
    highest, lowest = _neighbouring_labels(labels, 1)
    background = cv2.erode(labels, np.ones((3, 3), np.uint8)) == 0
    interior = (labels > 0) & (highest == lowest) & ~background
    depth = cv2.distanceTransform(interior.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth = np.where(labels > 0, depth + 1, 0).astype(np.float32)
    deepest = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), depth.ravel())
    deepest[0] = 1
    return np.asarray(depth / deepest[labels], np.float32)


def border_closeness(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """How close each pixel is to two nuclei (Ronneberger et al. 2015, equation 2, without w0).

    Args:
        labels: uint16 [H, W], 0 is background.

    Returns:
        float32 [H, W] in [0, 1]: exp(-(d1 + d2)^2 / (2 * 5^2)), where d1 and d2 are the distances
        to the nearest and the second nearest nucleus, pixels; 0 inside nuclei.
    """
    reach = round(4 * CLOSENESS_PX)  # less than 0.0004 beyond
    height, width = labels.shape
    nearest, second = (np.full(labels.shape, np.inf, np.float32) for _ in range(2))
    for number, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None:
            continue
        rows, columns = box
        y, x = max(0, rows.start - reach), max(0, columns.start - reach)
        around = np.s_[y : min(height, rows.stop + reach), x : min(width, columns.stop + reach)]
        outside = (labels[around] != number).astype(np.uint8)
        away = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        np.minimum(second[around], np.maximum(nearest[around], away), out=second[around])
        np.minimum(nearest[around], away, out=nearest[around])
    return np.asarray(np.exp(-((nearest + second) ** 2) / (2 * CLOSENESS_PX**2)), np.float32)


def nuclei_of(labels: NDArray[np.uint16]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The connected parts of the nuclei of a crop, and their boxes.

    Args:
        labels: uint16 [H, W], 0 is background; parts of one label may lie apart.

    Returns:
        parts: int32 [H, W], 0 is background, 1..K; those below `MIN_AREA_PX` are background.
        boxes: float32 [K, 4], (x0, y0, x1, y1), pixels, of each part.
    """
    parts = label(labels, connectivity=1)
    large = np.bincount(parts.ravel()) >= MIN_AREA_PX
    large[0] = False
    parts = np.where(large, np.cumsum(large), 0).astype(np.int32)[parts]
    boxes = [
        (columns.start, rows.start, columns.stop, rows.stop)
        for rows, columns in ndimage.find_objects(parts)
    ]
    return parts, np.array(boxes, np.float32).reshape(-1, 4)


def nuclei_tensors(labels: NDArray[np.uint16]) -> dict[str, Tensor]:
    """The nuclei of a crop as detectors are trained on them: parts and boxes of `nuclei_of`."""
    parts, boxes = nuclei_of(labels)
    return {"parts": torch.from_numpy(parts), "boxes": torch.from_numpy(boxes)}


def _neighbouring_labels(
    labels: NDArray[np.uint16], reach_px: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Highest and lowest non-zero label within a square of `reach_px` around each pixel."""
    window = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    highest = cv2.dilate(labels, window)
    lowest = cv2.erode(np.where(labels == 0, np.uint16(65535), labels), window)
    return highest.astype(np.uint16, copy=False), lowest.astype(np.uint16, copy=False)
