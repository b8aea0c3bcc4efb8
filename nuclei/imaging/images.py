"""Frames and label images read from PNG, JPEG, TIFF and OME-TIFF, as arrays of a fixed layout."""

import math
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import FrameTooLarge, InvalidData, InvalidImage, InvalidOption
from nuclei.imaging.decoding import Decoded, Header, decode, probe
from nuclei.imaging.selection import EVERYTHING, Selection
from nuclei.results.coordinates import PixelSize

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a microscope.

    Attributes:
        pixels: uint8 or uint16 [H, W, C], C is 1 (grey) or 3 (RGB), H and W at least 1.
        pixel_size_um: None when unknown.
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


def probe_frame(
    source: Path | bytes, limits: FrameLimits = FrameLimits(), selection: Selection = EVERYTHING
) -> Header:
    """Read the header of a frame's file: an upper bound of what `read_frame` returns.

    Nothing is decompressed; what follows the header is not checked, nor the type of the pixels.

    Raises:
        InvalidImage: not an image, or its header is damaged, or says that it is not a single
            plane of a supported kind.
        FrameTooLarge: over a limit.
    """
    return _naming(source, lambda: probe(_load(source, limits), limits.check_shape, selection))


def read_frame(
    source: Path | bytes, limits: FrameLimits = FrameLimits(), selection: Selection = EVERYTHING
) -> Frame:
    """Read a frame from a file or from its encoded bytes.

    PNG, JPEG, TIFF or OME-TIFF; 8 or 16 bit; grey, RGB, RGBA (alpha is dropped), palette, 1 bit
    (0 becomes 0, 1 becomes 255). The pixel size is taken from OME or ImageJ metadata, or from the
    resolution tags of a TIFF.

    Raises:
        InvalidImage: unreadable, not an image, truncated, zero-size, wrong dtype, several planes.
        FrameTooLarge: over a limit; found in the header, before anything is decompressed.
    """
    return _naming(source, lambda: _frame(_decode(source, limits, selection), limits))


def frame_from_array(
    pixels: NDArray[Any],
    pixel_size_um: tuple[float, float] | None = None,
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
    size = None if pixel_size_um is None else _pixel_size(pixel_size_um)
    if pixels.shape[2] == 4:
        pixels = pixels[:, :, :3]
    return Frame(np.ascontiguousarray(pixels, dtype=native), size)


def read_labels(source: Path | bytes, limits: FrameLimits = FrameLimits()) -> NDArray[np.uint32]:
    """Read a label image: uint32 [H, W], 0 is background.

    PNG (8 or 16 bit) or TIFF of any integer type; palette TIFFs give their indices.

    Raises:
        InvalidImage: unreadable, not an image, truncated, zero-size, several planes.
        FrameTooLarge: over a limit.
        InvalidData: not labels: floats, 1 bit, colours, negative or above 2**32 - 1.
    """
    return _naming(source, lambda: _labels(_decode(source, limits, EVERYTHING)))


def _pixel_size(given: tuple[float, float]) -> PixelSize:
    if len(given) != 2 or not all(math.isfinite(side) and side > 0 for side in given):
        raise InvalidOption(
            f"pixel size is {tuple(given)}; expected (y, x) in micrometres, both above 0"
        )
    return PixelSize(*given)


def _naming(source: Path | bytes, read: Callable[[], T]) -> T:
    try:
        return read()
    except (InvalidImage, InvalidData, InvalidOption) as error:
        if isinstance(source, Path):
            raise type(error)(f"{source}: {error}") from error
        raise


def _frame(decoded: Decoded, limits: FrameLimits) -> Frame:
    pixels = decoded.pixels
    if decoded.palette is not None:
        pixels = decoded.palette[pixels]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    return frame_from_array(pixels, decoded.pixel_size_um, limits)


def _labels(decoded: Decoded) -> NDArray[np.uint32]:
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


def _decode(source: Path | bytes, limits: FrameLimits, selection: Selection) -> Decoded:
    return decode(_load(source, limits), limits.check_shape, selection)


def _load(source: Path | bytes, limits: FrameLimits) -> bytes:
    if isinstance(source, bytes):
        limits.check_bytes(len(source))
        return source
    try:
        found = source.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
            raise InvalidImage("not a file; expected an image file")
        limits.check_bytes(found.st_size)
        return source.read_bytes()
    except OSError as error:
        raise InvalidImage(f"cannot be read: {error.strerror}") from error
