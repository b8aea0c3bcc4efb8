"""Truth drawn with labelme: a JSON file beside each image (https://github.com/wkentaro/labelme)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nuclei.errors import InvalidData
from training.data.outlines import NO_CATEGORY, Outline, Outlines, whole

CIRCLE_CORNERS = 64


@dataclass(frozen=True)
class LabelmeImage:
    """The only image of a labelme file.

    Attributes:
        file_name: path of the image as it is listed.
        outlines: its shapes.
    """

    file_name: str
    outlines: Outlines


def labelme_image(document: Any) -> LabelmeImage | None:
    """The image of a labelme file; None when the document is something else.

    Polygons, rectangles and circles are outlines; those of one group are one nucleus.

    Raises:
        InvalidData: other shapes, each named.
    """
    if not isinstance(document, dict) or not {"shapes", "imagePath"} <= set(document):
        return None
    if not isinstance(document["shapes"], list):
        raise InvalidData("its shapes are not a list; write it again")
    objects: dict[Any, Outline] = {}
    problems = []
    for number, shape in enumerate(document["shapes"], start=1):
        name = f"shape {number}"
        try:
            outline = _outline(name, shape)
        except InvalidData as error:
            problems.append(f"{name}: {error}")
            continue
        group = shape.get("group_id")
        key = number if group is None else (outline.category, str(group))
        if key in objects:
            outline = replace(objects[key], mask=[*objects[key].mask, *outline.mask])
        objects[key] = outline
    if problems:
        raise InvalidData("; ".join(problems))
    height, width = whole(document.get("imageHeight")), whole(document.get("imageWidth"))
    size = (height, width) if height and width else None
    return LabelmeImage(str(document["imagePath"]), Outlines(tuple(objects.values()), size=size))


def _outline(name: str, shape: Any) -> Outline:
    if not isinstance(shape, Mapping):
        raise InvalidData("it is no object; write it again")
    kind = shape.get("shape_type") or "polygon"
    try:
        points = np.array(shape.get("points"), float).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise InvalidData("its points are not pairs of numbers; write it again") from None
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind == "circle" and len(points) == 2:
        angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS, endpoint=False)
        radius = np.hypot(*(points[1] - points[0]))
        points = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind != "polygon":
        raise InvalidData(f"it is a {kind}; expected a polygon, a rectangle or a circle")
    category = str(shape.get("label") or NO_CATEGORY)
    return Outline(name, category, [points.ravel().tolist()])
