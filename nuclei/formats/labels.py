"""Label images as files: TIFF, OME-TIFF and 16-bit PNG."""

import io

import numpy as np
import tifffile

from nuclei.errors import InvalidOption
from nuclei.formats.png import encode_png
from nuclei.results.segmentation import Segmentation

MAX_PNG_LABEL = 65535


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


def label_ome_tiff(segmentation: Segmentation) -> bytes:
    """Label image as OME-TIFF: uint32 [H, W], deflate, with the pixel size when it is known."""
    size = segmentation.pixel_size_um
    physical = (
        {}
        if size is None
        else {
            "PhysicalSizeX": size.x,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": size.y,
            "PhysicalSizeYUnit": "µm",
        }
    )
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        segmentation.labels,
        ome=True,
        compression="zlib",
        compressionargs={"level": 1},
        metadata={"axes": "YX", "Name": "labels", **physical},
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
