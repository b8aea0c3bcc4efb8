from typing import Any

import numpy as np
import pytest

from nuclei.errors import InvalidData
from training.data.labelme import labelme_image


def document(*shapes: Any, **fields: Any) -> dict[str, Any]:
    return {"imagePath": "a.png", "shapes": list(shapes), **fields}


def square(x: int, **fields: Any) -> dict[str, Any]:
    return {"label": "nucleus", "points": [[x, 4], [x + 8, 4], [x + 8, 12], [x, 12]], **fields}


def labels_of(*shapes: Any) -> np.ndarray:
    image = labelme_image(document(*shapes))
    assert image is not None
    return image.outlines.labels((40, 60))


def test_polygons_rectangles_and_circles_are_outlines() -> None:
    labels = labels_of(
        square(4),
        {"label": "nucleus", "points": [[28, 12], [20, 4]], "shape_type": "rectangle"},
        {"label": "nucleus", "points": [[42, 20], [42, 10]], "shape_type": "circle"},
    )
    assert np.bincount(labels.ravel())[1:3].tolist() == [64, 64]
    assert (labels == 3).sum() == pytest.approx(np.pi * 100, rel=0.02)


def test_the_shapes_of_a_group_are_one_nucleus() -> None:
    labels = labels_of(square(4, group_id=1), square(20), square(36, group_id=1))
    assert labels.max() == 2
    assert np.bincount(labels.ravel())[1:].tolist() == [128, 64]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (square(4, shape_type="linestrip"), "it is a linestrip; expected a polygon"),
        (square(4, shape_type="mask", points=[[1, 1], [2, 2]]), "it is a mask"),
        (square(4, points=[[10**400, 1]] * 3), "not pairs of numbers"),
        (square(4, points=[["a", "b"]]), "not pairs of numbers"),
        (square(4, points=[[1, 2, 3]]), "not pairs of numbers"),
        ("square", "it is no object"),
    ],
)
def test_a_shape_that_is_no_outline_is_named(shape: Any, reason: str) -> None:
    with pytest.raises(InvalidData, match=f"shape 2: .*{reason}"):
        labelme_image(document(square(20), shape))


def test_shapes_that_are_no_list_are_refused() -> None:
    with pytest.raises(InvalidData, match="not a list"):
        labelme_image({"imagePath": "a.png", "shapes": {}})


@pytest.mark.parametrize("other", [None, [1], {"shapes": []}])
def test_other_json_is_not_of_labelme(other: Any) -> None:
    assert labelme_image(other) is None
