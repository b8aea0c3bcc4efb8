"""GeoJSON that QuPath opens."""

import uuid
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.formats.outlines import outlines
from nuclei.formats.tables import json_bytes, named_quality, rounded, significant
from nuclei.results.segmentation import Segmentation

CLASS_COLOUR = (255, 214, 0)


def feature_collection(
    segmentation: Segmentation, check: Callable[[], None] = lambda: None
) -> bytes:
    """FeatureCollection of one detection per nucleus.

    Coordinates are pixels, (0, 0) the upper left corner of the frame. Outlines follow the edges of
    the pixels. The id of a nucleus is a UUID that depends on the label image and its label.

    Args:
        segmentation: the nuclei and their labels.
        check: called for each nucleus; an exception that it raises ends the work.
    """
    frame_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{zlib.crc32(segmentation.labels.tobytes()):08x}")
    features = [
        json_bytes(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(frame_id, str(label))),
                "geometry": _geometry(polygons),
                "properties": {
                    "objectType": "detection",
                    "name": f"Nucleus {label}",
                    "classification": {"name": "Nucleus", "color": CLASS_COLOUR},
                    "measurements": measurements,
                },
            }
        )
        for (label, polygons), measurements in zip(
            outlines(segmentation.labels, check), _measurements(segmentation), strict=True
        )
    ]
    # Warnings and quality are foreign members (RFC 7946, 6.1), which readers leave aside.
    return b'{"type":"FeatureCollection","features":[%b],"warnings":%b,"quality":%b}' % (
        b",".join(features),
        json_bytes(segmentation.warnings),
        json_bytes(named_quality(segmentation.quality)),
    )


def _measurements(segmentation: Segmentation) -> Iterator[dict[str, float]]:
    nuclei = segmentation.nuclei
    columns: dict[str, NDArray[Any]] = {"Area px^2": nuclei.area_px}
    if segmentation.pixel_size_um is not None:
        columns["Area µm^2"] = nuclei.area_um2(segmentation.pixel_size_um)
    columns |= {
        "Eccentricity": nuclei.eccentricity,
        "Mean intensity": nuclei.mean_intensity,
        "Score": nuclei.score,
    }
    numbers = {name: rounded(values) for name, values in columns.items()}
    numbers["Mean intensity"] = significant(nuclei.mean_intensity)
    rows = zip(*numbers.values(), strict=True)
    return (dict(zip(columns, row, strict=True)) for row in rows)


def _geometry(polygons: list[NDArray[np.int32]]) -> dict[str, Any]:
    rings = [np.concatenate([polygon, polygon[:1]]).tolist() for polygon in polygons]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
