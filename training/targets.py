"""Label images to the maps a network learns: foreground, touching border, distance."""

import cv2
import numpy as np
from numpy.typing import NDArray

MAPS = ("foreground", "border", "distance")
BORDER_REACH_PX = 2


def target_maps(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Targets of one label image.

    Args:
        labels: uint16 [H, W], 0 is background.

    Returns:
        float32 [3, H, W] in [0, 1]: foreground; border, the pixels within 2 pixels of two different
        nuclei; distance, the Euclidean distance of a pixel of a nucleus to the outside of that
        nucleus, divided by that nucleus' largest.
    """
    return np.stack([(labels > 0).astype(np.float32), touching_border(labels), distance(labels)])


def touching_border(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """1 where two different nuclei lie within `BORDER_REACH_PX`; float32 [H, W]."""
    highest, lowest = _neighbouring_labels(labels, BORDER_REACH_PX)
    return ((highest > 0) & (lowest < highest)).astype(np.float32)


def distance(labels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Distance to the outside of the own nucleus over that nucleus' largest; float32 [H, W]."""
    highest, lowest = _neighbouring_labels(labels, 1)
    background = cv2.erode(labels, np.ones((3, 3), np.uint8)) == 0
    interior = (labels > 0) & (highest == lowest) & ~background
    depth = cv2.distanceTransform(interior.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth = np.where(labels > 0, depth + 1, 0).astype(np.float32)
    deepest = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(deepest, labels.ravel(), depth.ravel())
    deepest[0] = 1
    return np.asarray(depth / deepest[labels], np.float32)


def _neighbouring_labels(
    labels: NDArray[np.uint16], reach_px: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Highest and lowest non-zero label within a square of `reach_px` around each pixel."""
    window = np.ones((2 * reach_px + 1, 2 * reach_px + 1), np.uint8)
    highest = cv2.dilate(labels, window)
    lowest = cv2.erode(np.where(labels == 0, np.uint16(65535), labels), window)
    return highest.astype(np.uint16, copy=False), lowest.astype(np.uint16, copy=False)
