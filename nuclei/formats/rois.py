"""Regions of interest for ImageJ and Fiji: a zip that its ROI Manager opens."""

import io
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

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
    """A file of which what is finished is taken away.

    `zipfile` goes back to the head of the last entry: in a file where it cannot, sizes come behind
    the data, and ImageJ waits for ever.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._taken = 0

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        pass

    def tell(self) -> int:
        return self._taken + self._file.tell()

    def seek(self, position: int) -> int:
        return self._taken + self._file.seek(position - self._taken)

    def taken(self) -> bytes:
        taken = self._file.getvalue()
        self._taken += len(taken)
        self._file = io.BytesIO()
        return taken


def _zipped(packed: PackedOutlines) -> Iterator[bytes]:
    written = _Written()
    with zipfile.ZipFile(cast(BinaryIO, written), "w", zipfile.ZIP_DEFLATED) as rois:
        for label, polygons in packed:
            for part, polygon in enumerate(polygons, start=1):
                name = f"{label}" if len(polygons) == 1 else f"{label}-{part}"
                roi = ImagejRoi.frompoints(polygon, name=name)
                roi.roitype = ROI_TYPE.POLYGON
                rois.writestr(zipfile.ZipInfo(f"{name}.roi", LONG_AGO), roi.tobytes())
                yield written.taken()
    yield written.taken()
