"""The features of nuclei, one row per nucleus: CSV and JSON; frames, one row per frame."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import NucleiError
from nuclei.formats.features import Columns, feature_columns
from nuclei.formats.pieces import Pieces, separated
from nuclei.imaging.images import Frame
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

# Rows that are Python's numbers at a time: these take ten times the memory of the columns.
BLOCK_ROWS = 1024


def csv_table(
    segmentation: Segmentation, frame: Frame, check: Callable[[], None] = lambda: None
) -> Pieces:
    """One line per nucleus, columns as `feature_columns`; empty where something is not known.

    Args:
        segmentation: the nuclei.
        frame: that they are of.
        check: called at intervals while they are measured, which is before this returns; an
            exception that it raises ends the work.
    """
    columns = feature_columns(segmentation, frame, check)
    return Pieces(lambda: _csv_blocks(columns))


def json_report(
    segmentation: Segmentation, frame: Frame, check: Callable[[], None] = lambda: None
) -> Pieces:
    """Model, version, size, times, warnings, quality, and each nucleus; arguments as CSV."""
    height, width = segmentation.labels.shape
    columns = feature_columns(segmentation, frame, check)
    head = json_bytes(
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
        }
    )

    def parts() -> Iterator[bytes]:
        yield b'%b,"nuclei":[' % head.removesuffix(b"}")
        yield from separated(json_bytes(row) for row in rows_of(columns))
        yield b"]}"

    return Pieces(parts)


def write_frames(
    file: BinaryIO, rows: Iterable[Mapping[str, Any]], more_columns: Sequence[str] = ()
) -> None:
    """CSV of one line per frame: what was found and how good it looks, or why it failed.

    What is not known is empty.

    Args:
        file: written line by line.
        rows: values by the names of the columns, as `frame_row` and `failed_row` make them; others
            are left out.
        more_columns: behind FRAME_COLUMNS.
    """
    text = io.TextIOWrapper(file, "utf-8", newline="")
    columns = (*FRAME_COLUMNS, *more_columns)
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    text.detach()


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


def json_bytes(content: Any) -> bytes:
    """JSON without spaces, in UTF-8; ValueError for NaN and infinity, which it does not have."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def rows_of(columns: Columns) -> Iterator[dict[str, Any]]:
    """Each nucleus as Python's numbers, by the names of the columns; None for what is not known."""
    for block in _blocks(columns):
        for row in zip(*block.values(), strict=True):
            yield dict(zip(block, row, strict=True))


def _csv_blocks(columns: Columns) -> Iterator[bytes]:
    yield _csv_lines([tuple(columns)])
    for block in _blocks(columns):
        yield _csv_lines(zip(*block.values(), strict=True))


def _csv_lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _blocks(columns: Columns) -> Iterator[dict[str, list[Any]]]:
    """Some rows at a time, as Python's numbers."""
    for start in range(0, len(columns["label"]), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        yield {name: _numbers(name, values[rows]) for name, values in columns.items()}


def _numbers(name: str, values: NDArray[Any]) -> list[Any]:
    if not np.issubdtype(values.dtype, np.floating):
        return list(values.tolist())
    # A frame's values may all be below 1e-4.
    digits = "{:.7g}" if name.startswith("intensity") else "{:.4f}"
    return [None if math.isnan(value) else float(digits.format(value)) for value in values.tolist()]


def _named_range(range_: tuple[float, float] | None) -> dict[str, float] | None:
    return None if range_ is None else {"lo": range_[0], "hi": range_[1]}


def _named_size(size: PixelSize | None) -> dict[str, float] | None:
    return None if size is None else {"x": size.x, "y": size.y}
