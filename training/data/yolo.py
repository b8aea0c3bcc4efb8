"""Data sets in YOLO's format: a text file per image, a polygon per nucleus.

A line is a class and the x, y of a polygon's corners, as fractions of the image's width and height
(https://docs.ultralytics.com/datasets/segment/). A polygon has no holes and no second part, so
nuclei with either change when they are written.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from nuclei.errors import InvalidData
from nuclei.formats.outlines import outlines
from training.data.outlines import Outline, Outlines

CLASS = "0"
BOX_VALUES = 4


def parse_yolo(text: str, classes: Mapping[str, str] | None = None) -> Outlines:
    """The nuclei of an image; blank lines are skipped, as ultralytics skips them.

    Args:
        text: of the file.
        classes: their names, by number.

    Raises:
        InvalidData: lines that are not polygons; each is named.
    """
    objects, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        category, *corners = line.split()
        if len(corners) == BOX_VALUES:
            problems.append(f"line {number} is a box; expected a polygon: class x y x y x y ...")
        elif len(corners) < 6 or len(corners) % 2 or not all(map(_is_number, corners)):
            problems.append(f"line {number} is no polygon; expected: class x y x y x y ...")
        name = (classes or {}).get(category, category)
        objects.append(Outline(f"line {number}", name, [corners]))
    if problems:
        raise InvalidData("; ".join(problems))
    return Outlines(tuple(objects), fractions=True)


def class_names(file_name: str, text: str) -> dict[str, str]:
    """The names of the classes by number, from a `classes.txt`, a line each, or a `data.yaml`.

    Raises:
        InvalidData: it names none.
    """
    if file_name.lower().endswith(".txt"):
        return {str(number): line.strip() for number, line in enumerate(text.splitlines())}
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidData(f"is no YAML ({error}); write it again") from error
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise InvalidData("names no classes; expected `names:` and below it a name for each number")
    return {str(number): str(name) for number, name in names.items()}


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


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _joined(polygons: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """One polygon, int32 [P, 2], its parts joined by zero-width bridges between near corners."""
    joined = polygons[0]
    for part in polygons[1:]:
        i, j = np.unravel_index(cdist(joined, part).argmin(), (len(joined), len(part)))
        there = np.concatenate([np.roll(part, -j, axis=0), part[j : j + 1]])
        joined = np.concatenate([joined[: i + 1], there, joined[i:]])
    return joined
