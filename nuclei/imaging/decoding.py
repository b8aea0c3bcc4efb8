"""PNG, JPEG and TIFF: from the bytes of an image file to its header, and to all of its pixels."""

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from nuclei.errors import InvalidImage
from nuclei.imaging.metadata import tiff_pixel_size
from nuclei.imaging.silence import silent_decoders
from nuclei.results.coordinates import PixelSize

CheckShape = Callable[[int, int], None]

MAX_PAGES = 100


@dataclass(frozen=True)
class Header:
    """What an image file says about its pixels before any of them is decompressed.

    Attributes:
        height, width: pixels.
        channels: 1 (grey) or 3 (colour, or indices of a palette), alpha not counted.
        itemsize: bytes of one value of a channel.
    """

    height: int
    width: int
    channels: int
    itemsize: int


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels as an image file stores them.

    Attributes:
        pixels: [H, W] or [H, W, samples], any dtype.
        pixel_size_um: micrometres; None when unknown.
        palette: uint16 [3, entries], the colours that `pixels` index; None when there is no
            palette.
    """

    pixels: NDArray[Any]
    pixel_size_um: PixelSize | None = None
    palette: NDArray[np.uint16] | None = None


def probe(data: bytes, check_shape: CheckShape) -> Header:
    """Read the header of the only image of a file; nothing is decompressed.

    Arguments and errors as `decode`, which also checks what follows the header.
    """
    with _refusing_damage():
        return _form_of(data).probe(data, check_shape)


def decode(data: bytes, check_shape: CheckShape) -> Decoded:
    """Decode the only image of a file.

    Args:
        data: a whole PNG, JPEG, TIFF or OME-TIFF file.
        check_shape: called with height and width before anything is decompressed; may raise.

    Raises:
        InvalidImage: not an image, truncated, damaged, several planes, unusual colours.
    """
    with _refusing_damage():
        return _form_of(data).decode(data, check_shape)


@dataclass(frozen=True)
class _Form:
    """The readers of one file format."""

    probe: Callable[[bytes, CheckShape], Header]
    decode: Callable[[bytes, CheckShape], Decoded]


def _form_of(data: bytes) -> _Form:
    if not data:
        raise InvalidImage("the file is empty; expected a PNG, JPEG or TIFF image")
    form = next((form for magic, form in _FORMS.items() if data.startswith(magic)), None)
    if form is None:
        raise InvalidImage(
            f"not an image this service reads (it begins with {data[:8]!r}); expected PNG, JPEG, "
            "TIFF or OME-TIFF: convert it first"
        )
    return form


@contextmanager
def _refusing_damage() -> Iterator[None]:
    """Turn the exceptions and logs of decoders about damaged bytes into InvalidImage."""
    try:
        with silent_decoders():
            yield
    except InvalidImage:
        raise
    except Exception as error:  # decoders raise any exception on damaged bytes
        raise InvalidImage(
            f"the image is truncated or damaged ({error}); expected a whole file: send it again"
        ) from error


def _probe_png(data: bytes, check_shape: CheckShape) -> Header:
    if len(data) < _PNG_HEADER_BYTES:
        raise ValueError("it ends within its header")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    check_shape(height, width)
    return Header(height, width, 1 if colour == _PNG_GREY else 3, 2 if depth == 16 else 1)


def _decode_png(data: bytes, check_shape: CheckShape) -> Decoded:
    _probe_png(data, check_shape)
    _check_png_chunks(data)
    return Decoded(_decode_with_opencv(data))


def _check_png_chunks(data: bytes) -> None:
    # OpenCV returns the readable part of a truncated or damaged PNG.
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


def _probe_jpeg(data: bytes, check_shape: CheckShape) -> Header:
    image = _open_jpeg(data, check_shape)
    return Header(image.height, image.width, 1 if image.mode == "L" else 3, 1)


def _decode_jpeg(data: bytes, check_shape: CheckShape) -> Decoded:
    image = _open_jpeg(data, check_shape)
    return Decoded(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))


def _open_jpeg(data: bytes, check_shape: CheckShape) -> JpegImagePlugin.JpegImageFile:
    # Pillow refuses a truncated JPEG, which the other decoders fill with grey.
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    check_shape(image.height, image.width)
    return image


def _probe_tiff(data: bytes, check_shape: CheckShape) -> Header:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = _checked_page(tiff, check_shape)
        indices = page.photometric == _PHOTOMETRIC.PALETTE and not tiff.is_imagej
        channels = 3 if indices or page.samplesperpixel > 2 else 1
        return Header(page.imagelength, page.imagewidth, channels, np.dtype(page.dtype).itemsize)


def _decode_tiff(data: bytes, check_shape: CheckShape) -> Decoded:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = _checked_page(tiff, check_shape)
        _check_segments(page, data)
        plain = page.compression in _TIFFFILE_CODECS
        pixels = page.asarray() if plain else _decode_with_opencv(data)
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        if page.photometric == _PHOTOMETRIC.MINISWHITE:
            pixels = ~pixels if pixels.dtype == np.bool_ else (1 << page.bitspersample) - 1 - pixels
        # The palette of an ImageJ file is for display: its indices are the intensities.
        palette = None if tiff.is_imagej else page.colormap
        if palette is not None and palette.shape[1] <= pixels.max():
            raise ValueError("its palette is too short")
        return Decoded(pixels, tiff_pixel_size(tiff, page), palette)


def _checked_page(tiff: tifffile.TiffFile, check_shape: CheckShape) -> tifffile.TiffPage:
    """The only plane of the file, in a layout that is supported."""
    page = _only_page(tiff)
    check_shape(page.imagelength, page.imagewidth)
    if page.is_tiled:
        check_shape(page.tilelength, page.tilewidth)
    _check_tiff_layout(page)
    return page


_PNG_HEADER_BYTES = 26
_PNG_GREY = 0
_PNG, _JPEG = _Form(_probe_png, _decode_png), _Form(_probe_jpeg, _decode_jpeg)
_TIFF = _Form(_probe_tiff, _decode_tiff)
_FORMS = {
    b"\x89PNG\r\n\x1a\n": _PNG,
    b"\xff\xd8\xff": _JPEG,
    b"II*\x00": _TIFF,
    b"MM\x00*": _TIFF,
    b"II+\x00": _TIFF,
    b"MM\x00+": _TIFF,
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
    """The only full-resolution plane of the file."""
    # The chain of pages of a damaged file may be a loop.
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
    # Decoders fill missing data with zeros, and decompress any amount.
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
