"""The file formats of a segmentation, each by the name that callers ask for."""

from collections.abc import Callable
from dataclasses import dataclass

from nuclei.errors import InvalidOption
from nuclei.formats.geojson import feature_collection
from nuclei.formats.labels import label_png, label_tiff
from nuclei.formats.overlay import overlay
from nuclei.formats.png import encode_png
from nuclei.formats.tables import csv_table, json_report
from nuclei.imaging.images import Frame
from nuclei.quoting import quoted
from nuclei.results.segmentation import Segmentation


@dataclass(frozen=True)
class Format:
    """One way to write a segmentation.

    Attributes:
        media_type: for HTTP.
        encode: makes the bytes of a file from a segmentation and the frame it was made from.
    """

    media_type: str
    encode: Callable[[Segmentation, Frame], bytes]


FORMATS = {
    "labels.tif": Format("image/tiff", lambda segmentation, frame: label_tiff(segmentation)),
    "labels.png": Format("image/png", lambda segmentation, frame: label_png(segmentation)),
    "overlay.png": Format(
        "image/png", lambda segmentation, frame: encode_png(overlay(frame, segmentation.labels))
    ),
    "geojson": Format(
        "application/geo+json", lambda segmentation, frame: feature_collection(segmentation)
    ),
    "csv": Format("text/csv", lambda segmentation, frame: csv_table(segmentation)),
    "json": Format("application/json", lambda segmentation, frame: json_report(segmentation)),
}


def format_named(name: str) -> Format:
    """The format with that name; raises InvalidOption when there is none."""
    if name not in FORMATS:
        raise InvalidOption(f"unknown format {quoted(name)}; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]
