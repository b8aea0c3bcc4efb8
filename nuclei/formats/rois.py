"""Regions of interest for ImageJ and Fiji: a zip that its ROI Manager opens."""

import zipfile
from collections.abc import Callable, Iterator

from roifile import ROI_TYPE, ImagejRoi

from nuclei.formats.outlines import PackedOutlines
from nuclei.formats.pieces import Pieces
from nuclei.results.segmentation import Segmentation

# Of a file in the zip: the same result is the same bytes.
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def roi_zip(segmentation: Segmentation, check: Callable[[], None] = lambda: None) -> Pieces:
    """A polygon for each nucleus, named by its label; for each part, where it has several.

    Coordinates as in `nuclei.formats.outlines`, which are ImageJ's.

    Args:
        segmentation: the nuclei and their labels.
        check: called for each nucleus while they are outlined, which is before this returns; an
            exception that it raises ends the work.
    """
    packed = PackedOutlines(segmentation.labels, check)
    return Pieces(lambda: _zipped(packed))


class _Written:
    """A file that cannot be gone back in; what is written is taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _zipped(packed: PackedOutlines) -> Iterator[bytes]:
    written = _Written()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as rois:  # type: ignore[arg-type]
        for label, polygons in packed:
            for part, polygon in enumerate(polygons, start=1):
                name = f"{label}" if len(polygons) == 1 else f"{label}-{part}"
                roi = ImagejRoi.frompoints(polygon, name=name)
                roi.roitype = ROI_TYPE.POLYGON
                rois.writestr(zipfile.ZipInfo(f"{name}.roi", LONG_AGO), roi.tobytes())
                yield written.taken()
    yield written.taken()
