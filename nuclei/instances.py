"""The nuclei of a frame: their features in columns, and their outlines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.stage import PixelSize


@dataclass(frozen=True, eq=False)
class Nuclei:
    """Features of N nuclei, one row per nucleus, by rising label.

    Coordinates are (y, x) with the centre of the first pixel at (0, 0).

    Attributes:
        label: uint32 [N], value of the nucleus in the label image.
        area_px: int64 [N], number of pixels.
        centroid_px: float32 [N, 2], (y, x).
        box_px: int32 [N, 4], (y0, x0, y1, x1), y1 and x1 just outside.
        eccentricity: float32 [N], of the ellipse with the same second moments; 0 is a circle.
        mean_intensity: float32 [N], mean over pixels and channels, in units of the raw pixels.
        score: float32 [N], mean foreground probability, in [0, 1].
    """

    label: NDArray[np.uint32]
    area_px: NDArray[np.int64]
    centroid_px: NDArray[np.float32]
    box_px: NDArray[np.int32]
    eccentricity: NDArray[np.float32]
    mean_intensity: NDArray[np.float32]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)

    def area_um2(self, pixel_size_um: PixelSize) -> NDArray[np.float32]:
        """Areas, float32 [N], square micrometres; pixel size as (y, x)."""
        return np.asarray(self.area_px * (pixel_size_um[0] * pixel_size_um[1]), np.float32)

    def centroid_um(self, pixel_size_um: PixelSize) -> NDArray[np.float32]:
        """Centroids (y, x), float32 [N, 2], micrometres from the centre of the first pixel."""
        return np.asarray(self.centroid_px * np.array(pixel_size_um), np.float32)

    def box_um(self, pixel_size_um: PixelSize) -> NDArray[np.float32]:
        """Boxes (y0, x0, y1, x1), float32 [N, 4], micrometres from the frame's upper left."""
        return np.asarray(self.box_px * np.array(pixel_size_um * 2), np.float32)


def outlines(labels: NDArray[np.uint32]) -> list[tuple[int, list[NDArray[np.int32]]]]:
    """Outline of every nucleus as polygons along the edges of its pixels.

    A vertex is a corner of a pixel, (0, 0) being the upper left corner of the frame, so pixel
    (x, y) covers the square from (x, y) to (x + 1, y + 1), as in QuPath and GeoJSON. A polygon
    without holes encloses exactly the pixels of the nucleus. Holes are filled. Parts that touch at
    a corner only share a polygon; other parts are polygons of their own.

    Args:
        labels: uint32 [H, W], contiguous, 0 is background.

    Returns:
        (label, polygons) by rising label; a polygon is int32 [P, 2] of (x, y), clockwise on the
        screen, its first vertex not repeated at the end.
    """
    found: Sequence[tuple[slice, slice] | None] = ndimage.find_objects(labels.view(np.int32))
    return [
        (label, _polygons(labels[box] == label, box[1].start, box[0].start))
        for label, box in enumerate(found, start=1)
        if box is not None
    ]


def _polygons(mask: NDArray[np.bool_], x0: int, y0: int) -> list[NDArray[np.int32]]:
    # OpenCV walks through the centres of border pixels. On an image of twice the size, rounding
    # those centres to the original grid gives the pixel edges exactly.
    doubled = mask.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(
        doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(2 * x0, 2 * y0)
    )
    return [_corners((np.asarray(contour[:, 0], np.int32) + 1) >> 1) for contour in contours]


def _corners(points: NDArray[Any]) -> NDArray[np.int32]:
    """The points of a closed line, without repetitions, clockwise on the screen."""
    moved = (points != np.roll(points, 1, axis=0)).any(axis=1)
    return np.ascontiguousarray(points[moved][::-1], dtype=np.int32)
