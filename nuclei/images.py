"""Reading frames and label images: PNG, JPEG, TIFF and OME-TIFF, into arrays of one known form."""

import io
import logging
import math
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from nuclei.errors import FrameTooLarge, InvalidData, InvalidImage, InvalidOption

# What the decoders have to say about damaged bytes reaches the caller as an error of ours.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

PixelSize = tuple[float, float]
T = TypeVar("T")

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
class Frame:
    """One frame of a microscope.

    Attributes:
        pixels: uint8 or uint16 [H, W, C], C is 1 (grey) or 3 (RGB), H and W at least 1.
        pixel_size_um: (y, x) size of a pixel, micrometres; None when unknown.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    pixel_size_um: PixelSize | None = None


@dataclass(frozen=True)
class FrameLimits:
    """The largest frame that is read.

    Attributes:
        max_side_px: height and width, pixels.
        max_pixels: height times width.
        max_bytes: size of the encoded image.
    """

    max_side_px: int = 16384
    max_pixels: int = 16384 * 16384
    max_bytes: int = 2**30

    def check_shape(self, height: int, width: int) -> None:
        """Raises FrameTooLarge over a limit, InvalidImage when a side is zero."""
        if height < 1 or width < 1:
            raise InvalidImage(
                f"the image is {height} x {width} pixels; expected at least 1 x 1: send a frame"
            )
        if max(height, width) > self.max_side_px or height * width > self.max_pixels:
            raise FrameTooLarge(
                f"the image is {height} x {width} pixels; at most {self.max_side_px} per side and "
                f"{self.max_pixels} in all are accepted: crop it or split it into tiles"
            )

    def check_bytes(self, size: int) -> None:
        """Raises FrameTooLarge over the limit."""
        if size > self.max_bytes:
            raise FrameTooLarge(
                f"the encoded image has {size} bytes; at most {self.max_bytes} are accepted: "
                "crop it or compress it"
            )


def read_frame(source: Path | bytes, limits: FrameLimits = FrameLimits()) -> Frame:
    """Read a frame from a file or from its encoded bytes.

    PNG, JPEG, TIFF or OME-TIFF; 8 or 16 bit; grey, RGB, RGBA (alpha is dropped), palette, 1 bit
    (0 becomes 0, 1 becomes 255). The pixel size is taken from OME or ImageJ metadata, or from the
    resolution tags of a TIFF.

    Raises:
        InvalidImage: unreadable, not an image, truncated, zero-size, wrong dtype, several planes.
        FrameTooLarge: over a limit; seen on the header, before anything is decompressed.
    """
    return _naming(source, lambda: _frame(_decode(source, limits), limits))


def frame_from_array(
    pixels: NDArray[Any],
    pixel_size_um: PixelSize | None = None,
    limits: FrameLimits = FrameLimits(),
) -> Frame:
    """Make a frame from an array.

    Args:
        pixels: uint8 or uint16 [H, W] or [H, W, C], C is 1 (grey), 3 (RGB) or 4 (RGBA, alpha is
            dropped).
        pixel_size_um: (y, x), micrometres; None when unknown.
        limits: the largest frame that is accepted.

    Raises:
        InvalidImage: wrong dtype or shape.
        FrameTooLarge: over a limit.
        InvalidOption: the pixel size is not two positive numbers.
    """
    native = pixels.dtype.newbyteorder("=")
    if native not in (np.uint8, np.uint16):
        raise InvalidImage(
            f"pixels are {pixels.dtype}; expected uint8 or uint16: scale to 16 bit and convert"
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise InvalidImage(
            f"the image has shape {list(pixels.shape)}; expected one plane, [height, width] or "
            "[height, width, channels] with 1, 3 or 4 channels: pick one plane or channel"
        )
    limits.check_shape(*pixels.shape[:2])
    if pixel_size_um is not None and not all(math.isfinite(s) and s > 0 for s in pixel_size_um):
        raise InvalidOption(
            f"pixel size is {pixel_size_um}; expected (y, x) in micrometres, both above 0"
        )
    if pixels.shape[2] == 4:
        pixels = pixels[:, :, :3]
    return Frame(np.ascontiguousarray(pixels, dtype=native), pixel_size_um)


def read_labels(source: Path | bytes, limits: FrameLimits = FrameLimits()) -> NDArray[np.uint32]:
    """Read a label image: uint32 [H, W], 0 is background.

    PNG (8 or 16 bit) or TIFF of any integer type; palette TIFFs give their indices.

    Raises:
        InvalidImage: unreadable, not an image, truncated, zero-size, several planes.
        FrameTooLarge: over a limit.
        InvalidData: not labels: floats, 1 bit, colours, negative or above 2**32 - 1.
    """
    return _naming(source, lambda: _labels(_decode(source, limits)))


@dataclass(frozen=True, eq=False)
class _Decoded:
    """pixels as stored: [H, W] or [H, W, samples]; palette is uint16 [3, entries]."""

    pixels: NDArray[Any]
    pixel_size_um: PixelSize | None = None
    palette: NDArray[np.uint16] | None = None


def _naming(source: Path | bytes, read: Callable[[], T]) -> T:
    try:
        return read()
    except (InvalidImage, InvalidData) as error:
        if isinstance(source, Path):
            raise type(error)(f"{source}: {error}") from error
        raise


def _frame(decoded: _Decoded, limits: FrameLimits) -> Frame:
    pixels = decoded.pixels
    if decoded.palette is not None:
        pixels = (np.moveaxis(decoded.palette[:, pixels], 0, -1) >> 8).astype(np.uint8)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.ndim == 3 and pixels.shape[2] == 2:  # grey and alpha
        pixels = pixels[:, :, 0]
    return frame_from_array(pixels, decoded.pixel_size_um, limits)


def _labels(decoded: _Decoded) -> NDArray[np.uint32]:
    pixels = decoded.pixels
    if pixels.ndim != 2 or not np.issubdtype(pixels.dtype, np.integer):
        raise InvalidData(
            f"labels are {pixels.dtype} {list(pixels.shape)}; expected integers [height, width], "
            "0 for background and one number per nucleus: save them as uint16 or uint32"
        )
    if int(pixels.min()) < 0 or int(pixels.max()) > np.iinfo(np.uint32).max:
        raise InvalidData(
            f"labels go from {pixels.min()} to {pixels.max()}; expected 0 to 2**32 - 1: "
            "number the nuclei from 1"
        )
    return np.ascontiguousarray(pixels, dtype=np.uint32)


def _decode(source: Path | bytes, limits: FrameLimits) -> _Decoded:
    data = _load(source, limits)
    if not data:
        raise InvalidImage("the file is empty; expected a PNG, JPEG or TIFF image")
    decode = next((d for magic, d in _DECODERS.items() if data.startswith(magic)), None)
    if decode is None:
        raise InvalidImage(
            f"not an image this service reads (it begins with {data[:8]!r}); expected PNG, JPEG, "
            "TIFF or OME-TIFF: convert it first"
        )
    try:
        return decode(data, limits)
    except InvalidImage:
        raise
    except Exception as error:  # decoders answer damaged bytes with exceptions of every kind
        raise InvalidImage(
            f"the image is truncated or damaged ({error}); expected a whole file: send it again"
        ) from error


def _load(source: Path | bytes, limits: FrameLimits) -> bytes:
    if isinstance(source, bytes):
        limits.check_bytes(len(source))
        return source
    try:
        limits.check_bytes(source.stat().st_size)
        return source.read_bytes()
    except OSError as error:
        raise InvalidImage(f"cannot be read: {error.strerror}") from error


def _decode_png(data: bytes, limits: FrameLimits) -> _Decoded:
    if len(data) < 24:
        raise ValueError("it ends within its header")
    width, height = struct.unpack(">II", data[16:24])
    limits.check_shape(height, width)
    _check_png_chunks(data)
    return _Decoded(_decode_with_opencv(data))


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


def _decode_jpeg(data: bytes, limits: FrameLimits) -> _Decoded:
    # Pillow refuses a truncated JPEG, which the other decoders fill with grey.
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    limits.check_shape(image.height, image.width)
    return _Decoded(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))


def _decode_tiff(data: bytes, limits: FrameLimits) -> _Decoded:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = _only_page(tiff)
        limits.check_shape(page.imagelength, page.imagewidth)
        if page.is_tiled:
            limits.check_shape(page.tilelength, page.tilewidth)
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
        return _Decoded(pixels, _tiff_pixel_size(tiff, page), palette)


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
    pages = [page.aspage() for page in tiff.pages]
    if not pages:
        raise ValueError("it has no pixels")
    whole = [page for page in pages if not page.is_reduced and not page.is_mask]
    hidden = int((tiff.imagej_metadata or {}).get("images", 1)) if len(whole) == 1 else 1
    planes = sum(page.imagedepth for page in whole) * hidden
    if planes != 1:
        raise InvalidImage(
            f"the TIFF holds {planes} planes; expected one: save the plane to segment, for example "
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
    return sizes[0], sizes[1]


def _unit_um(unit: str) -> float | None:
    return MICROMETRES_PER.get(unit.strip())


def _ratio(page: tifffile.TiffPage, tag: str) -> float:
    numerator, denominator = page.tags.valueof(tag, default=(0, 1))
    return float(numerator / denominator) if denominator else 0.0


def _pixel_size(pixels_per_unit: list[float], unit_um: float | None) -> PixelSize | None:
    if unit_um is None or min(pixels_per_unit) <= 0:
        return None
    return unit_um / pixels_per_unit[0], unit_um / pixels_per_unit[1]
