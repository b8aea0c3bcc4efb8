"""The file formats of a segmentation, each by the name that callers ask for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nuclei.errors import InvalidOption
from nuclei.formats.coco import coco_json
from nuclei.formats.geojson import feature_collection
from nuclei.formats.labels import label_ome_tiff, label_png, label_tiff
from nuclei.formats.ome_zarr import label_ome_zarr
from nuclei.formats.overlay import overlay
from nuclei.formats.parquet import parquet_table
from nuclei.formats.png import encode_png
from nuclei.formats.rois import roi_zip
from nuclei.formats.tables import csv_table, json_report
from nuclei.imaging.images import Frame
from nuclei.quoting import quoted
from nuclei.results.segmentation import Segmentation

Check = Callable[[], None]


@dataclass(frozen=True)
class Format:
    """One way to write a segmentation.

    Attributes:
        media_type: for HTTP.
        encode: makes a file from a segmentation and the frame it was made from, as pieces of bytes;
            may be gone through several times. The check is called at intervals, and an exception
            that it raises ends the work. Once it returns, neither the labels nor the frame are
            needed any more: text is made of what was measured of them, as its pieces are taken.
        bytes_per_px, bytes_per_nucleus: memory that this takes, besides the frame and its labels;
            measured with 65,536 nuclei of 100 pixels side by side. The pieces keep no more than
            the latter.
        is_folder: the bytes are a zip; on a disk it is the folder of the files in it.
    """

    media_type: str
    encode: Callable[[Segmentation, Frame, Check], Iterable[bytes]]
    bytes_per_px: int = 0
    bytes_per_nucleus: int = 0
    is_folder: bool = False


# Of a media type that several have, the first is the usual one.
FORMATS = {
    "labels.tif": Format("image/tiff", lambda result, frame, check: [label_tiff(result)], 4),
    "labels.ome.tif": Format(
        "image/tiff", lambda result, frame, check: [label_ome_tiff(result)], 4
    ),
    "labels.ome.zarr": Format(
        "application/zip",
        lambda result, frame, check: [label_ome_zarr(result, check)],
        4,
        600,
        is_folder=True,
    ),
    "labels.png": Format("image/png", lambda result, frame, check: [label_png(result)], 4),
    "overlay.png": Format(
        "image/png",
        lambda result, frame, check: [encode_png(overlay(frame, result.labels, check=check))],
        18,
    ),
    "geojson": Format("application/geo+json", feature_collection, 0, 550),
    "rois.zip": Format(
        "application/zip", lambda result, frame, check: roi_zip(result, check), 0, 600
    ),
    "csv": Format("text/csv", csv_table, 0, 550),
    "parquet": Format(
        "application/vnd.apache.parquet",
        lambda result, frame, check: [parquet_table(result, frame, check)],
        0,
        600,
    ),
    "json": Format("application/json", json_report, 0, 550),
    "coco.json": Format(
        "application/json",
        lambda result, frame, check: coco_json(result, frame.name, check),
        0,
        120,
    ),
}


def format_named(name: str) -> Format:
    """The format with that name; raises InvalidOption when there is none."""
    if name not in FORMATS:
        raise InvalidOption(f"unknown format {quoted(name)}; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]
