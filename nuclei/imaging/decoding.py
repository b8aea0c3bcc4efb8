"""Decoding PNG, JPEG and TIFF: bytes of an image file to its pixels, and nothing by halves."""

import io
import logging
import math
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from nuclei.errors import InvalidImage
from nuclei.results.coordinates import PixelSize

CheckShape = Callable[[int, int], None]

# What the decoders have to say about damaged bytes reaches the caller as an error of ours.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

MAX_PAGES = 100

# A pixel that resolves nuclei is smaller; larger values are print resolutions such as 72 dpi.
MAX_TAG_PIXEL_SIZE_UM = 10.0

MICROMETRES_PER = {
    "pm": 1e-6,
    "Å": 1e-4,
    "\u212b": 1e-4,
    "nm": 1e-3,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "inch": 25400.0,
    "m": 1e6,
}


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels as an image file stores them.

    Attributes:
        pixels: [H, W] or [H, W, samples], of any type.
        pixel_size_um: micrometres; None when unknown.
        palette: uint16 [3, entries], the colours that `pixels` are indices of; None when there is
            no palette.
    """

    pixels: NDArray[Any]
    pixel_size_um: PixelSize | None = None
    palette: NDArray[np.uint16] | None = None


def decode(data: bytes, check_shape: CheckShape) -> Decoded:
    """Decode the one image of a file.

    Args:
        data: a whole PNG, JPEG, TIFF or OME-TIFF file.
        check_shape: called with height and width before anything is decompressed; may raise.

    Raises:
        InvalidImage: not an image, truncated, damaged, several planes, unusual colours.
    """
    if not data:
        raise InvalidImage("the file is empty; expected a PNG, JPEG or TIFF image")
    decode_form = next((d for magic, d in _DECODERS.items() if data.startswith(magic)), None)
    if decode_form is None:
        raise InvalidImage(
            f"not an image this service reads (it begins with {data[:8]!r}); expected PNG, JPEG, "
            "TIFF or OME-TIFF: convert it first"
        )
    try:
        return decode_form(data, check_shape)
    except InvalidImage:
        raise
    except Exception as error:  # decoders answer damaged bytes with exceptions of every kind
        raise InvalidImage(
            f"the image is truncated or damaged ({error}); expected a whole file: send it again"
        ) from error


def _decode_png(data: bytes, check_shape: CheckShape) -> Decoded:
    if len(data) < 24:
        raise ValueError("it ends within its header")
    width, height = struct.unpack(">II", data[16:24])
    check_shape(height, width)
    _check_png_chunks(data)
    return Decoded(_decode_with_opencv(data))


def _check_png_chunks(data: bytes) -> None:
    # OpenCV returns what it has of a truncated or damaged PNG.
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[position : position + 8].ljust(8))
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError("it ends before its last chunk")
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4]):
            raise ValueError(f"wrong checksum of chunk {kind!r}")
        position = end + 4


def _decode_with_opencv(data: bytes) -> NDArray[Any]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("its pixels cannot be decoded")
    return pixels if pixels.ndim == 2 else pixels[:, :, (2, 1, 0)]


def _decode_jpeg(data: bytes, check_shape: CheckShape) -> Decoded:
    # Pillow refuses a truncated JPEG, which the other decoders fill with grey.
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    check_shape(image.height, image.width)
    return Decoded(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))


def _decode_tiff(data: bytes, check_shape: CheckShape) -> Decoded:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = _only_page(tiff)
        check_shape(page.imagelength, page.imagewidth)
        if page.is_tiled:
            check_shape(page.tilelength, page.tilewidth)
        _check_tiff_layout(page)
        _check_segments(page, data)
        plain = page.compression in _TIFFFILE_CODECS
        pixels = page.asarray() if plain else _decode_with_opencv(data)
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        if page.photometric == _PHOTOMETRIC.MINISWHITE:
            pixels = ~pixels if pixels.dtype == np.bool_ else (1 << page.bitspersample) - 1 - pixels
        # The palette of an ImageJ file is a display colour: its indices are the intensities.
        palette = None if tiff.is_imagej else page.colormap
        if palette is not None and palette.shape[1] <= pixels.max():
            raise ValueError("its palette is too short")
        return Decoded(pixels, _tiff_pixel_size(tiff, page), palette)


_DECODERS = {
    b"\x89PNG\r\n\x1a\n": _decode_png,
    b"\xff\xd8\xff": _decode_jpeg,
    b"II*\x00": _decode_tiff,
    b"MM\x00*": _decode_tiff,
    b"II+\x00": _decode_tiff,
    b"MM\x00+": _decode_tiff,
}

_COMPRESSION, _PHOTOMETRIC = tifffile.COMPRESSION, tifffile.PHOTOMETRIC
_DEFLATE = (_COMPRESSION.ADOBE_DEFLATE, _COMPRESSION.DEFLATE)
_TIFFFILE_CODECS = (_COMPRESSION.NONE, _COMPRESSION.PACKBITS, *_DEFLATE)
_OPENCV_CODECS = (_COMPRESSION.LZW, _COMPRESSION.JPEG, _COMPRESSION.CCITT_T6)
_TIFFFILE_SAMPLES: dict[int, int] = {
    _PHOTOMETRIC.MINISBLACK: 1,
    _PHOTOMETRIC.MINISWHITE: 1,
    _PHOTOMETRIC.PALETTE: 1,
    _PHOTOMETRIC.RGB: 3,
}
_ALPHA = ((tifffile.EXTRASAMPLE.ASSOCALPHA,), (tifffile.EXTRASAMPLE.UNASSALPHA,))
_OPENCV_SAMPLES: dict[int, int] = {
    _PHOTOMETRIC.MINISBLACK: 1,
    _PHOTOMETRIC.RGB: 3,
    _PHOTOMETRIC.YCBCR: 3,
}


def _only_page(tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    """The one full-resolution plane of the file."""
    # The chain of pages of a damaged file may go round for ever.
    pages = [page.aspage() for page in islice(tiff.pages, MAX_PAGES)]
    if not pages:
        raise ValueError("it has no pixels")
    whole = [page for page in pages if not page.is_reduced and not page.is_mask]
    hidden = int((tiff.imagej_metadata or {}).get("images", 1)) if len(whole) == 1 else 1
    planes = sum(page.imagedepth for page in whole) * hidden
    if planes != 1:
        raise InvalidImage(
            f"the TIFF holds {'at least ' * (len(pages) == MAX_PAGES)}{planes} planes; expected "
            "one: save the plane to segment, for example "
            "tifffile.imwrite('plane.tif', tifffile.imread('stack.tif', key=0))"
        )
    return whole[0]


def _check_tiff_layout(page: tifffile.TiffPage) -> None:
    alpha = page.extrasamples in _ALPHA or (
        len(page.extrasamples) == 1 and page.photometric == _PHOTOMETRIC.RGB
    )
    plain = page.compression in _TIFFFILE_CODECS
    samples = (_TIFFFILE_SAMPLES if plain else _OPENCV_SAMPLES).get(page.photometric)
    if page.dtype is None or (samples and page.samplesperpixel != samples + alpha):
        raise InvalidImage(
            f"the TIFF has {page.samplesperpixel} channels of {page.bitspersample} bit; expected "
            "8 or 16 bit, grey, RGB or RGBA: save one channel of it"
        )
    if samples is None or not (plain or _is_for_opencv(page)):
        raise InvalidImage(
            f"the TIFF has {_PHOTOMETRIC(page.photometric).name} pixels (axes {page.axes}) with "
            f"{_COMPRESSION(page.compression).name} compression, which is not read: save it as "
            "grey or RGB, uncompressed or with deflate"
        )


def _is_for_opencv(page: tifffile.TiffPage) -> bool:
    return page.compression in _OPENCV_CODECS and page.axes != "SYX" and page.index == 0


def _check_segments(page: tifffile.TiffPage, data: bytes) -> None:
    # Decoders fill what is missing with zeros, and inflate without a limit.
    capacity = math.prod(page.chunks) * np.dtype(page.dtype).itemsize
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        segment = data[offset : offset + size]
        if page.compression in _DEFLATE and (
            len(zlib.decompressobj().decompress(segment, capacity + 1)) > capacity
        ):
            raise InvalidImage("the TIFF inflates to more pixels than it declares; save it again")
        if size == 0 or offset + size > len(data):
            raise InvalidImage(
                "the TIFF is truncated (pixel data beyond the end of the file); expected a whole "
                "file: send it again"
            )


def _tiff_pixel_size(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> PixelSize | None:
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_pixel_size(tiff.ome_metadata)
    resolution = [_ratio(page, "YResolution"), _ratio(page, "XResolution")]
    if tiff.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", ""))
        return _pixel_size(resolution, _unit_um(unit.replace("\\u00B5", "\u00b5")))
    unit_um = {2: MICROMETRES_PER["inch"], 3: MICROMETRES_PER["cm"]}.get(int(page.resolutionunit))
    size = _pixel_size(resolution, unit_um)
    return size if size is not None and max(size) <= MAX_TAG_PIXEL_SIZE_UM else None


def _ome_pixel_size(xml: str) -> PixelSize | None:
    pixels = ElementTree.fromstring(re.sub(r"^<\?xml.*?\?>", "", xml)).find(".//{*}Pixels")
    if pixels is None:
        return None
    sizes = []
    for axis in ("Y", "X"):
        unit_um = _unit_um(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"))
        size = float(pixels.get(f"PhysicalSize{axis}", "nan")) * (unit_um or math.nan)
        if not (math.isfinite(size) and size > 0):
            return None
        sizes.append(size)
    return PixelSize(*sizes)


def _unit_um(unit: str) -> float | None:
    return MICROMETRES_PER.get(unit.strip())


def _ratio(page: tifffile.TiffPage, tag: str) -> float:
    numerator, denominator = page.tags.valueof(tag, default=(0, 1))
    return float(numerator / denominator) if denominator else 0.0


def _pixel_size(pixels_per_unit: list[float], unit_um: float | None) -> PixelSize | None:
    if unit_um is None or min(pixels_per_unit) <= 0:
        return None
    return PixelSize(y=unit_um / pixels_per_unit[0], x=unit_um / pixels_per_unit[1])
