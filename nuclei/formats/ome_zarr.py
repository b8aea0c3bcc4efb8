"""Label images as OME-Zarr, which napari, QuPath and Fiji open as labels in colour."""

import colorsys
import io
import zipfile
from collections.abc import Callable
from typing import Any

from nuclei.formats.rois import LONG_AGO
from nuclei.results.coordinates import PixelSize
from nuclei.results.segmentation import Segmentation

# More programs read 0.4 than 0.5.
VERSION = "0.4"
CHUNK_PX = 1024
# The pyramid ends with a level whose sides are at most this.
SMALLEST_PX = 512
# As many hues, a golden angle apart: numbers that follow one another look different.
HUES = 256
GOLDEN = 0.618034
OPAQUE = 255
_PALETTE = [
    [*(round(255 * part) for part in colorsys.hsv_to_rgb(hue * GOLDEN % 1, 0.75, 1)), OPAQUE]
    for hue in range(HUES)
]


def label_ome_zarr(segmentation: Segmentation, check: Callable[[], None] = lambda: None) -> bytes:
    """A zip of the files of an OME-Zarr 0.4 label image: multiscale, uint32, with colours.

    Each level has every second pixel of the one before. Axes are in micrometres where the pixel
    size is known.

    Args:
        segmentation: the nuclei and their labels.
        check: called for each level; an exception that it raises ends the work.
    """
    # Here, as it takes half a second that others than its callers need not wait.
    import zarr
    from numcodecs import Blosc
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(files), mode="w", zarr_format=2)
    level = segmentation.labels
    factors: list[int] = []
    while True:
        check()
        stored = group.create_array(
            str(len(factors)),
            shape=level.shape,
            dtype=level.dtype,
            chunks=tuple(min(side, CHUNK_PX) for side in level.shape),
            chunk_key_encoding={"name": "v2", "separator": "/"},
            compressors=Blosc(cname="zstd", clevel=1),
        )
        stored[:] = level
        factors.append(2 ** len(factors))
        if max(level.shape) <= SMALLEST_PX:
            break
        level = level[::2, ::2]
    group.attrs.update(_attributes(segmentation, factors))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name in sorted(files):
            packed.writestr(zipfile.ZipInfo(name, LONG_AGO), files[name].to_bytes())
    return archive.getvalue()


def _attributes(segmentation: Segmentation, factors: list[int]) -> dict[str, Any]:
    """As the specification says (https://ngff.openmicroscopy.org/0.4/)."""
    size = segmentation.pixel_size_um
    unit = {} if size is None else {"unit": "micrometer"}
    size = size or PixelSize(1, 1)
    return {
        "multiscales": [
            {
                "version": VERSION,
                "name": "labels",
                "axes": [{"name": name, "type": "space", **unit} for name in "yx"],
                "datasets": [
                    {
                        "path": str(level),
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [size.y * factor, size.x * factor]}
                        ],
                    }
                    for level, factor in enumerate(factors)
                ],
            }
        ],
        "image-label": {
            "version": VERSION,
            "colors": [
                {"label-value": label, "rgba": _PALETTE[label % HUES]}
                for label in segmentation.nuclei.label.tolist()
            ],
        },
    }
