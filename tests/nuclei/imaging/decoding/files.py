"""Image files made for tests, as bytes."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

RANDOM = np.random.default_rng(7)
GREY16 = RANDOM.integers(0, 65536, (40, 50), dtype=np.uint16)
RGB16 = RANDOM.integers(0, 65536, (40, 50, 3), dtype=np.uint16)
GREY8, RGB8 = (GREY16 >> 8).astype(np.uint8), (RGB16 >> 8).astype(np.uint8)
STACK = RANDOM.integers(0, 65536, (5, 3, 40, 50), dtype=np.uint16)
"""[Z, C, Y, X]"""


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    """Written by tifffile."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def pillow(image: Image.Image | NDArray[Any], form: str, **options: Any) -> bytes:
    """Written by Pillow, TIFFs with a compression by libtiff."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, form, **options)
    return file.getvalue()


def chunk(name: bytes, contents: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(name + contents))
    return struct.pack(">I", len(contents)) + name + contents + checksum


def with_chunk(png: bytes, name: bytes, contents: bytes) -> bytes:
    """The PNG with a chunk after its header."""
    return png[:33] + chunk(name, contents) + png[33:]


def segment(marker: int, contents: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(contents) + 2) + contents


def exif(orientation: int) -> bytes:
    """An EXIF block with an orientation."""
    return b"II*\0" + struct.pack("<IHHHIII", 8, 1, 274, 3, 1, orientation, 0)
