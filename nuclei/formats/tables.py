"""The features of nuclei, one row per nucleus: CSV and JSON; frames, one row per frame."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import NucleiError
from nuclei.results.coordinates import PixelSize
from nuclei.results.quality import Quality
from nuclei.results.segmentation import Segmentation

# Of the table of frames; `warnings` are joined by " | ".
FRAME_COLUMNS = (
    *("frame", "error", "model", "version", "height_px", "width_px"),
    *("pixel_size_x_um", "pixel_size_y_um", "count"),
    *(field.name for field in fields(Quality)),
    "warnings",
)


def csv_table(segmentation: Segmentation, check: Callable[[], None] = lambda: None) -> bytes:
    """One line per nucleus; each column carries its unit, micrometres when the size is known.

    Args:
        segmentation: the nuclei.
        check: called for each nucleus; an exception that it raises ends the work.
    """
    columns = _columns(segmentation)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_rows(columns, check))
    return text.getvalue().encode()


def json_report(segmentation: Segmentation, check: Callable[[], None] = lambda: None) -> bytes:
    """Model, version, size, times, warnings, quality, and each nucleus; arguments as CSV."""
    columns = _columns(segmentation)
    height, width = segmentation.labels.shape
    return json_bytes(
        {
            "model": segmentation.model,
            "version": segmentation.version,
            "height_px": height,
            "width_px": width,
            "pixel_size_um": _named_size(segmentation.pixel_size_um),
            "intensity_range": _named_range(segmentation.intensity_range),
            "quality": named_quality(segmentation.quality),
            "warnings": segmentation.warnings,
            "stage_ms": {name: round(ms, 3) for name, ms in segmentation.stage_ms.items()},
            "count": len(segmentation.nuclei),
            "nuclei": [dict(zip(columns, row, strict=True)) for row in _rows(columns, check)],
        }
    )


def frames_table(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """CSV of one line per frame: what was found and how good it looks, or why it failed.

    What is not known is empty.

    Args:
        rows: values by the names of FRAME_COLUMNS, as `frame_row` and `failed_row` make them.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, FRAME_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def frame_row(name: str, segmentation: Segmentation) -> dict[str, Any]:
    """The line of a frame that was segmented."""
    height, width = segmentation.labels.shape
    size = segmentation.pixel_size_um
    return {
        "frame": name,
        "model": segmentation.model,
        "version": segmentation.version,
        "height_px": height,
        "width_px": width,
        **({} if size is None else {"pixel_size_x_um": size.x, "pixel_size_y_um": size.y}),
        "count": len(segmentation.nuclei),
        **(named_quality(segmentation.quality) or {}),
        "warnings": " | ".join(segmentation.warnings),
    }


def failed_row(name: str, error: NucleiError) -> dict[str, Any]:
    """The line of a frame that could not be segmented."""
    return {"frame": name, "error": f"{type(error).__name__}: {error}"}


def named_quality(quality: Quality | None) -> dict[str, float | None] | None:
    """The measures by their names."""
    return None if quality is None else asdict(quality)


def significant(values: NDArray[np.float32]) -> list[float]:
    """Python numbers to the 7 digits that a float32 has: a frame's values may all be below 1e-4."""
    return [float(f"{value:.7g}") for value in values.tolist()]


def rounded(values: NDArray[Any]) -> list[Any]:
    """Python numbers, floats to 4 decimals."""
    if np.issubdtype(values.dtype, np.floating):
        return [round(value, 4) for value in values.tolist()]
    return list(values.tolist())


def json_bytes(content: Any) -> bytes:
    """JSON without spaces, in UTF-8; ValueError for NaN and infinity, which it does not have."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


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
    return {name: rounded(values) for name, values in columns.items()} | {
        "mean_intensity": significant(nuclei.mean_intensity)
    }


def _rows(columns: dict[str, list[Any]], check: Callable[[], None]) -> Iterator[tuple[Any, ...]]:
    for row in zip(*columns.values(), strict=True):
        check()
        yield row


def _boxes(box: NDArray[Any], unit: str) -> dict[str, NDArray[Any]]:
    corners = {"x0": 1, "y0": 0, "x1": 3, "y1": 2}
    return {f"box_{name}_{unit}": box[:, column] for name, column in corners.items()}


def _named_range(range_: tuple[float, float] | None) -> dict[str, float] | None:
    return None if range_ is None else {"lo": range_[0], "hi": range_[1]}


def _named_size(size: PixelSize | None) -> dict[str, float] | None:
    return None if size is None else {"x": size.x, "y": size.y}
