"""Outlines of the nuclei of a label image, as polygons."""

from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.boxes import windows

MAX_UINT16 = 65535


def outlines(
    labels: NDArray[np.uint32], check: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, list[NDArray[np.int32]]]]:
    """Outline of every nucleus as polygons along the edges of its pixels.

    A vertex is a corner of a pixel, (0, 0) being the upper left corner of the frame, so pixel
    (x, y) covers the square from (x, y) to (x + 1, y + 1), as in QuPath and GeoJSON. A polygon
    without holes encloses exactly the pixels of the nucleus. Holes are filled, those too that only
    corners close. Parts are separate polygons, also when they touch at a corner: a polygon passes
    each of its vertices once, as GeoJSON demands.

    Args:
        labels: uint32 [H, W], contiguous, 0 is background.
        check: called for each nucleus; an exception that it raises ends the work.

    Yields:
        (label, polygons) by ascending label; a polygon is int32 [P, 2] of (x, y), clockwise on the
        screen, its first vertex not repeated at the end.
    """
    for label, box in enumerate(windows(labels), start=1):
        check()
        if box is not None:
            yield label, _polygons(labels[box] == label, box[1].start, box[0].start)


class PackedOutlines:
    """Outlines of all nuclei, in as little memory as they need, for what is written of them later.

    Going through it yields what `outlines` does, with the vertices as uint16 or int32.
    """

    def __init__(
        self, labels: NDArray[np.uint32], check: Callable[[], None] = lambda: None
    ) -> None:
        """Follow the outlines; arguments as of `outlines`."""
        self._dtype = np.dtype(np.uint16 if max(labels.shape) <= MAX_UINT16 else np.int32)
        self._vertices = array(self._dtype.char)
        self._labels = array("I")
        # How many polygons each nucleus has, and how many vertices each polygon.
        self._parts, self._lengths = array("I"), array("I")
        for label, polygons in outlines(labels, check):
            self._labels.append(label)
            self._parts.append(len(polygons))
            for polygon in polygons:
                self._lengths.append(len(polygon))
                self._vertices.frombytes(polygon.astype(self._dtype).tobytes())

    def __iter__(self) -> Iterator[tuple[int, list[NDArray[Any]]]]:
        vertices = np.frombuffer(self._vertices, self._dtype).reshape(-1, 2)
        lengths, start = iter(self._lengths), 0
        for label, parts in zip(self._labels, self._parts, strict=True):
            polygons = []
            for length in islice(lengths, parts):
                polygons.append(vertices[start : start + length])
                start += length
            yield label, polygons


def _polygons(mask: NDArray[np.bool_], x0: int, y0: int) -> list[NDArray[np.int32]]:
    # OpenCV follows the centres of border pixels. On an image of twice the size, rounding
    # those centres to the original grid gives the pixel edges exactly.
    doubled = mask.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(
        doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(2 * x0, 2 * y0)
    )
    rings = [_corners((np.asarray(contour[:, 0], np.int32) + 1) >> 1) for contour in contours]
    return [part for ring in rings for part in _parts(ring)]


def _corners(points: NDArray[Any]) -> NDArray[np.int32]:
    """The points of a closed line, without repetition, clockwise on the screen."""
    moved = (points != np.roll(points, 1, axis=0)).any(axis=1)
    return np.ascontiguousarray(points[moved][::-1], dtype=np.int32)


def _parts(ring: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The ring, cut where it comes back to one of its vertices."""
    if len(set(ring.view(np.int64).ravel().tolist())) == len(ring):  # x and y as one number
        return [ring]
    parts = []
    path: dict[tuple[int, int], None] = {}  # in the order in which they were passed
    for x, y in ring.tolist():
        if (x, y) in path:
            part = [(x, y)]
            while (last := next(reversed(path))) != (x, y):
                part.append(last)
                del path[last]
            parts.append(np.array(part[:1] + part[:0:-1], np.int32))
        path[x, y] = None
    return [*parts, np.array(list(path), np.int32)]
