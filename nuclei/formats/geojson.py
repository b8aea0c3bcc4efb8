"""GeoJSON that QuPath opens."""

import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.formats.features import COLOURS, feature_columns
from nuclei.formats.outlines import PackedOutlines
from nuclei.formats.pieces import Pieces, separated
from nuclei.formats.tables import json_bytes, named_quality, rows_of
from nuclei.imaging.images import Frame
from nuclei.results.segmentation import Segmentation

CLASS_COLOUR = (255, 214, 0)
STATISTICS = {"mean": "Mean", "std": "Std.Dev.", "min": "Min", "max": "Max"}
# As QuPath names and writes measurements; those with a unit in pixels and micrometres.
MEASUREMENTS = {
    "area_px": "Area px^2",
    "area_um2": "Area µm^2",
    "perimeter_px": "Perimeter px",
    "perimeter_um": "Perimeter µm",
    "axis_major_length_px": "Major axis px",
    "axis_major_length_um": "Major axis µm",
    "axis_minor_length_px": "Minor axis px",
    "axis_minor_length_um": "Minor axis µm",
    "eccentricity": "Eccentricity",
    "solidity": "Solidity",
    "form_factor": "Form factor",
    **{f"intensity_{name}": f"{title} intensity" for name, title in STATISTICS.items()},
    **{
        f"intensity_{name}_{colour}": f"{title} intensity {colour}"
        for colour in COLOURS
        for name, title in STATISTICS.items()
    },
    "on_border": "On border",
    "neighbor_distance_px": "Neighbour distance px",
    "neighbor_distance_um": "Neighbour distance µm",
    "score": "Score",
}


def feature_collection(
    segmentation: Segmentation, frame: Frame, check: Callable[[], None] = lambda: None
) -> Pieces:
    """FeatureCollection of one detection per nucleus.

    Coordinates are pixels, (0, 0) the upper left corner of the frame. Outlines follow the edges of
    the pixels. The id of a nucleus is a UUID that depends on the label image and its label.

    Args:
        segmentation: the nuclei and their labels.
        frame: that they are of.
        check: called for each nucleus while they are measured and outlined, which is before this
            returns; an exception that it raises ends the work.
    """
    labels = segmentation.labels
    columns = feature_columns(segmentation, frame, check)
    packed = PackedOutlines(labels, check)
    frame_id = uuid.uuid5(
        uuid.NAMESPACE_OID, f"{zlib.crc32(np.ascontiguousarray(labels).data):08x}"
    )
    # Warnings and quality are foreign members (RFC 7946, 6.1), which readers leave aside.
    about = b'"warnings":%b,"quality":%b' % (
        json_bytes(segmentation.warnings),
        json_bytes(named_quality(segmentation.quality)),
    )

    def parts() -> Iterator[bytes]:
        yield b'{"type":"FeatureCollection","features":['
        yield from separated(
            json_bytes(_feature(frame_id, label, polygons, row))
            for (label, polygons), row in zip(packed, rows_of(columns), strict=True)
        )
        yield b"],%b}" % about

    return Pieces(parts)


def _feature(
    frame_id: uuid.UUID, label: int, polygons: list[NDArray[Any]], row: dict[str, Any]
) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(frame_id, str(label))),
        "geometry": _geometry(polygons),
        "properties": {
            "objectType": "detection",
            "name": f"Nucleus {label}",
            "classification": {"name": "Nucleus", "color": CLASS_COLOUR},
            "measurements": _measurements(row),
        },
    }


def _measurements(row: dict[str, Any]) -> dict[str, float]:
    """QuPath knows numbers alone: what is not known is left out."""
    return {
        name: row[column] for column, name in MEASUREMENTS.items() if row.get(column) is not None
    }


def _geometry(polygons: list[NDArray[Any]]) -> dict[str, Any]:
    rings = [np.concatenate([polygon, polygon[:1]]).tolist() for polygon in polygons]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
