"""Data sets in YOLO's format: a text file per image, a polygon per nucleus.

A line is a class and the x, y of a polygon's corners, as fractions of the image's width and height
(https://docs.ultralytics.com/datasets/segment/). A polygon has no holes and no second part, so
nuclei with either change when they are written.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from nuclei.errors import InvalidData
from nuclei.formats.outlines import outlines
from training.data.coco import CocoImage

CLASS = "0"


def parse_yolo(text: str, height: int, width: int) -> CocoImage:
    """The nuclei of an image of `height` x `width` pixels, numbered by line.

    Raises:
        InvalidData: lines that are not polygons; each is named.
    """
    annotations, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        _, *corners = line.split() or [""]
        try:
            points = np.array(corners, float).reshape(-1, 2) * (width, height)
        except ValueError:
            points = np.empty((0, 2))
        if len(points) < 3:
            problems.append(f"line {number} is no polygon; expected: class x y x y x y ...")
        annotations.append({"id": f"of line {number}", "segmentation": [points.ravel().tolist()]})
    if problems:
        raise InvalidData("; ".join(problems))
    return CocoImage("", height, width, tuple(annotations))


def yolo_text(labels: NDArray[np.integer]) -> str:
    """The lines of a label image [H, W], by ascending label; the polygons follow the pixels' edges.

    Holes are filled; parts are joined by bridges of no width.
    """
    scale = np.array(labels.shape[::-1], float)
    lines = []
    for _, polygons in outlines(np.ascontiguousarray(labels, np.uint32)):
        corners = (_joined(polygons) / scale).ravel()
        lines.append(" ".join([CLASS, *(f"{value:.6f}" for value in corners)]))
    return "".join(f"{line}\n" for line in lines)


def _joined(polygons: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """One polygon, int32 [P, 2], its parts joined by zero-width bridges between near corners."""
    joined = polygons[0]
    for part in polygons[1:]:
        i, j = np.unravel_index(cdist(joined, part).argmin(), (len(joined), len(part)))
        there = np.concatenate([np.roll(part, -j, axis=0), part[j : j + 1]])
        joined = np.concatenate([joined[: i + 1], there, joined[i:]])
    return joined
