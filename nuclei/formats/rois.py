"""Regions of interest for ImageJ and Fiji: a zip that its ROI Manager opens."""

import io
import zipfile
from collections.abc import Callable

from roifile import ROI_TYPE, ImagejRoi

from nuclei.formats.outlines import outlines
from nuclei.results.segmentation import Segmentation

# Of a file in the zip: the same result is the same bytes.
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def roi_zip(segmentation: Segmentation, check: Callable[[], None] = lambda: None) -> bytes:
    """A polygon for each nucleus, named by its label; for each part, where it has several.

    Coordinates as in `nuclei.formats.outlines`, which are ImageJ's.

    Args:
        segmentation: the nuclei and their labels.
        check: called for each nucleus; an exception that it raises ends the work.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as rois:
        for label, polygons in outlines(segmentation.labels, check):
            for part, polygon in enumerate(polygons, start=1):
                name = f"{label}" if len(polygons) == 1 else f"{label}-{part}"
                roi = ImagejRoi.frompoints(polygon, name=name)
                roi.roitype = ROI_TYPE.POLYGON
                rois.writestr(zipfile.ZipInfo(f"{name}.roi", LONG_AGO), roi.tobytes())
    return file.getvalue()
