from typing import Any

import numpy as np
import pytest

from nuclei.errors import InvalidData
from training.data.geojson import geojson_outlines

SHAPE = (30, 40)


def ring(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(geometry: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, **fields}


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def labels_of(document: Any) -> np.ndarray:
    outlines = geojson_outlines(document)
    assert outlines is not None
    return outlines.labels(SHAPE)


def test_a_feature_is_a_nucleus_with_its_holes_and_parts() -> None:
    holed = feature(polygon(ring(2, 3, 10), ring(4, 5, 2)))
    parts = feature(
        {
            "type": "MultiPolygon",
            "coordinates": [[ring(20, 3, 4)], [ring(30, 3, 3), ring(31, 4, 1)]],
        }
    )
    expected = np.zeros(SHAPE, np.uint32)
    expected[3:13, 2:12], expected[5:7, 4:6] = 1, 0
    expected[3:7, 20:24] = expected[3:6, 30:33] = 2
    expected[4, 31] = 0
    assert np.array_equal(
        labels_of({"type": "FeatureCollection", "features": [holed, parts]}), expected
    )
    assert np.array_equal(labels_of([holed, parts]), expected)
    assert np.array_equal(labels_of(holed), np.where(expected == 1, 1, 0))


def test_of_a_cell_the_nucleus_is_taken() -> None:
    cell = feature(polygon(ring(2, 3, 10)), nucleusGeometry=polygon(ring(4, 5, 3)))
    assert labels_of(cell).sum() == 9


def test_the_category_is_the_classification() -> None:
    square = polygon(ring(2, 3, 4))
    features = [
        feature(square, properties={"classification": {"name": "Tumor"}}),
        feature(square, properties={"classification": {"names": ["Tumor", "Positive"]}}),
        feature(square, properties={"objectType": "annotation"}),
        feature(square),
    ]
    outlines = geojson_outlines(features)
    assert outlines is not None
    assert outlines.categories() == {"Tumor": 1, "Tumor: Positive": 1, "(none)": 2}


def test_a_region_beside_detections_is_asked_about() -> None:
    square = polygon(ring(2, 3, 4))
    region = feature(polygon(ring(0, 0, 20)), properties={"objectType": "annotation"})
    for named in ("objectType", "object_type"):
        for kind in ("detection", "cell"):
            outlines = geojson_outlines([region, feature(square, properties={named: kind})])
            assert outlines is not None
            assert outlines.categories() == {"(annotation)": 1, "(none)": 1}


def test_a_classification_without_a_usable_name_is_none() -> None:
    square = polygon(ring(2, 3, 4))
    outlines = geojson_outlines(feature(square, properties={"classification": {"names": 5}}))
    assert outlines is not None
    assert outlines.categories() == {"(none)": 1}


UNUSABLE: list[tuple[Any, str]] = [
    ({"type": "Point", "coordinates": [1, 2]}, "it is a Point; expected a Polygon"),
    (None, "it is a None"),
    (polygon(), "no rings of points"),
    (polygon([[1], [2], [3]]), "no rings of points"),
    ({"type": "Polygon", "coordinates": 5}, "no rings of points"),
]


@pytest.mark.parametrize(("geometry", "reason"), UNUSABLE)
def test_a_feature_that_is_no_outline_is_named(geometry: Any, reason: str) -> None:
    with pytest.raises(InvalidData, match=f"feature 2: .*{reason}"):
        geojson_outlines([feature(polygon(ring(2, 3, 4))), feature(geometry)])


def test_coordinates_outside_of_the_image_are_named() -> None:
    with pytest.raises(InvalidData, match="feature 1: a polygon reaches from x 38 to 48"):
        labels_of(feature(polygon(ring(38, 3, 10))))
    with pytest.raises(InvalidData, match="feature 1: a polygon is not a list"):
        labels_of(feature(polygon([["a", 1], [1, 2], [3, 4]])))


@pytest.mark.parametrize("document", [None, 3, [], [1], {}, {"type": "FeatureCollection"}])
def test_other_json_is_no_geojson(document: Any) -> None:
    assert geojson_outlines(document) is None
