"""Truth that QuPath exports as GeoJSON: a feature per object, in pixels of the whole image.

https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html#geojson
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nuclei.errors import InvalidData
from training.data.outlines import NO_CATEGORY, Outline, Outlines

# Of annotations without a classification, where the nuclei are detections or cells.
REGION = "(annotation)"


def geojson_outlines(document: Any) -> Outlines | None:
    """The objects of a GeoJSON file; None when the document is something else.

    Of a cell of QuPath the nucleus is taken, where it has one. The category is the classification.
    Beside detections or cells, annotations without one have a category of their own: they are
    mostly the regions in which nuclei were looked for.

    Raises:
        InvalidData: features without a polygon, each named.
    """
    features = _features(document)
    if features is None:
        return None
    detected = any(_object_type(feature) in ("detection", "cell") for feature in features)
    objects, problems = [], []
    for number, feature in enumerate(features, start=1):
        name = f"feature {number}"
        try:
            objects.append(_outline(name, feature, detected))
        except InvalidData as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise InvalidData("; ".join(problems))
    return Outlines(tuple(objects))


def _features(document: Any) -> list[Any] | None:
    """The features of a collection, of a list of them, or the only one."""
    if isinstance(document, list):
        are_features = bool(document) and all(map(_is_feature, document))
        return document if are_features else None
    if _is_feature(document):
        return [document]
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        found = document.get("features")
        return found if isinstance(found, list) else None
    return None


def _is_feature(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("type") == "Feature"


def _outline(name: str, feature: Any, detected: bool) -> Outline:
    if not _is_feature(feature):
        raise InvalidData("it is no feature; expected objects of type Feature")
    shape = feature.get("nucleusGeometry") or feature.get("geometry")
    polygons = _polygons(shape if isinstance(shape, dict) else {})
    return Outline(
        name,
        _category(feature, detected),
        [_flat(rings[0]) for rings in polygons],
        [_flat(ring) for rings in polygons for ring in rings[1:]],
    )


def _properties(feature: Any) -> Mapping[str, Any]:
    found = feature.get("properties") if isinstance(feature, dict) else None
    return found if isinstance(found, dict) else {}


def _object_type(feature: Any) -> Any:
    properties = _properties(feature)
    return properties.get("objectType") or properties.get("object_type")  # before QuPath 0.4


def _category(feature: Any, detected: bool) -> str:
    none = REGION if detected and _object_type(feature) == "annotation" else NO_CATEGORY
    found = _properties(feature).get("classification")
    if not isinstance(found, dict):
        return none
    names = found.get("names")  # of QuPath 0.5, from the general to the special
    parts = names if isinstance(names, list) else []
    return str(found.get("name") or ": ".join(map(str, parts)) or none)


def _polygons(shape: Mapping[str, Any]) -> list[list[list[Any]]]:
    """The polygons of a geometry, each a list of rings, each a list of points."""
    kind: Any = shape.get("type")
    polygons: Any = shape.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        raise InvalidData(f"it is a {kind}; expected a Polygon or MultiPolygon: outline it")
    found: Any = [polygons] if kind == "Polygon" else polygons
    if not _are_rings(found):
        raise InvalidData("its coordinates are no rings of points; export it again")
    return list(found)


def _are_rings(polygons: Any) -> bool:
    return (
        isinstance(polygons, list)
        and bool(polygons)
        and all(isinstance(rings, list) and rings for rings in polygons)
        and all(isinstance(ring, list) for rings in polygons for ring in rings)
        and all(
            isinstance(point, list) and len(point) >= 2
            for rings in polygons
            for ring in rings
            for point in ring
        )
    )


def _flat(ring: Sequence[Sequence[Any]]) -> list[Any]:
    """x, y, x, y, ... of a ring, whose points may have a third coordinate."""
    return [value for point in ring for value in point[:2]]
