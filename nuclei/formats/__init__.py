"""Writing a segmentation: label images, GeoJSON, CSV and JSON, as bytes."""

import csv
import io
import json
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from nuclei.errors import InvalidOption
from nuclei.formats.outlines import outlines
from nuclei.formats.overlay import encode_png, overlay
from nuclei.imaging.images import Frame
from nuclei.results.coordinates import PixelSize
from nuclei.results.segmentation import Segmentation

MAX_PNG_LABEL = 65535
CLASS_COLOUR = (255, 214, 0)


@dataclass(frozen=True)
class Format:
    """One way to write a segmentation.

    Attributes:
        media_type: for HTTP.
        encode: makes the bytes of a file from a segmentation and the frame it was made from.
    """

    media_type: str
    encode: Callable[[Segmentation, Frame], bytes]


def label_tiff(segmentation: Segmentation) -> bytes:
    """Label image as TIFF: uint32 [H, W], deflate, with the pixel size when it is known."""
    size = segmentation.pixel_size_um
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        segmentation.labels,
        compression="zlib",
        compressionargs={"level": 1},
        metadata=None,
        resolution=None if size is None else (1e4 / size.x, 1e4 / size.y),
        resolutionunit=None if size is None else "CENTIMETER",
    )
    return file.getvalue()


def label_png(segmentation: Segmentation) -> bytes:
    """Label image as 16-bit grey PNG.

    Raises:
        InvalidOption: more than 65535 nuclei.
    """
    if len(segmentation.nuclei) > MAX_PNG_LABEL:
        raise InvalidOption(
            f"{len(segmentation.nuclei)} nuclei do not fit a 16-bit PNG, which holds "
            f"{MAX_PNG_LABEL}: choose labels.tif"
        )
    return encode_png(segmentation.labels.astype(np.uint16))


def geojson(segmentation: Segmentation) -> bytes:
    """GeoJSON FeatureCollection that QuPath opens: one detection per nucleus.

    Coordinates are pixels, (0, 0) the upper left corner of the frame. Outlines follow the edges of
    the pixels. The id of a nucleus is a UUID that depends on the label image and its label.
    """
    frame_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{zlib.crc32(segmentation.labels.tobytes()):08x}")
    features = [
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
        for (label, polygons), measurements in zip(
            outlines(segmentation.labels), _measurements(segmentation), strict=True
        )
    ]
    return _json({"type": "FeatureCollection", "features": features})


def csv_table(segmentation: Segmentation) -> bytes:
    """One line per nucleus; each column carries its unit, micrometres when the size is known."""
    columns = _columns(segmentation)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def json_report(segmentation: Segmentation) -> bytes:
    """Model, version, size, times and the features of each nucleus."""
    columns = _columns(segmentation)
    height, width = segmentation.labels.shape
    return _json(
        {
            "model": segmentation.model,
            "version": segmentation.version,
            "height_px": height,
            "width_px": width,
            "pixel_size_um": _named_size(segmentation.pixel_size_um),
            "stage_ms": {name: round(ms, 3) for name, ms in segmentation.stage_ms.items()},
            "count": len(segmentation.nuclei),
            "nuclei": [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ],
        }
    )


FORMATS = {
    "labels.tif": Format("image/tiff", lambda segmentation, frame: label_tiff(segmentation)),
    "labels.png": Format("image/png", lambda segmentation, frame: label_png(segmentation)),
    "overlay.png": Format(
        "image/png", lambda segmentation, frame: encode_png(overlay(frame, segmentation.labels))
    ),
    "geojson": Format("application/geo+json", lambda segmentation, frame: geojson(segmentation)),
    "csv": Format("text/csv", lambda segmentation, frame: csv_table(segmentation)),
    "json": Format("application/json", lambda segmentation, frame: json_report(segmentation)),
}


def format_named(name: str) -> Format:
    """The format of that name; raises InvalidOption when there is none."""
    if name not in FORMATS:
        raise InvalidOption(f"unknown format {name!r}; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _columns(segmentation: Segmentation) -> dict[str, list[Any]]:
    nuclei = segmentation.nuclei
    columns: dict[str, NDArray[Any]] = {
        "label": nuclei.label,
        "area_px": nuclei.area_px,
        "centroid_x_px": nuclei.centroid_px[:, 1],
        "centroid_y_px": nuclei.centroid_px[:, 0],
        **_boxes(nuclei.box_px, "px"),
        "eccentricity": nuclei.eccentricity,
        "mean_intensity": nuclei.mean_intensity,
        "score": nuclei.score,
    }
    if segmentation.pixel_size_um is not None:
        centroid = nuclei.centroid_um(segmentation.pixel_size_um)
        columns |= {
            "area_um2": nuclei.area_um2(segmentation.pixel_size_um),
            "centroid_x_um": centroid[:, 1],
            "centroid_y_um": centroid[:, 0],
            **_boxes(nuclei.box_um(segmentation.pixel_size_um), "um"),
        }
    return {name: _numbers(values) for name, values in columns.items()}


def _boxes(box: NDArray[Any], unit: str) -> dict[str, NDArray[Any]]:
    corners = {"x0": 1, "y0": 0, "x1": 3, "y1": 2}
    return {f"box_{name}_{unit}": box[:, column] for name, column in corners.items()}


def _numbers(values: NDArray[Any]) -> list[Any]:
    """Python numbers, floats to 4 decimals."""
    if np.issubdtype(values.dtype, np.floating):
        return [round(value, 4) for value in values.tolist()]
    return list(values.tolist())


def _measurements(segmentation: Segmentation) -> list[dict[str, float]]:
    nuclei = segmentation.nuclei
    columns: dict[str, NDArray[Any]] = {"Area px^2": nuclei.area_px}
    if segmentation.pixel_size_um is not None:
        columns["Area µm^2"] = nuclei.area_um2(segmentation.pixel_size_um)
    columns |= {
        "Eccentricity": nuclei.eccentricity,
        "Mean intensity": nuclei.mean_intensity,
        "Score": nuclei.score,
    }
    rows = zip(*(_numbers(values) for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _geometry(polygons: list[NDArray[np.int32]]) -> dict[str, Any]:
    rings = [np.concatenate([polygon, polygon[:1]]).tolist() for polygon in polygons]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}


def _named_size(size: PixelSize | None) -> dict[str, float] | None:
    return None if size is None else {"x": size.x, "y": size.y}


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
