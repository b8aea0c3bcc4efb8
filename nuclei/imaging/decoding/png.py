"""PNG: 1 to 16 bit, grey, palette or RGB, with or without alpha."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidImage
from nuclei.imaging.decoding.decoded import (
    CheckShape,
    Decoded,
    File,
    Header,
    orientation_warning,
    with_samples,
)
from nuclei.imaging.decoding.directories import exif_orientation
from nuclei.imaging.metadata import png_pixel_size
from nuclei.imaging.selection import Selection

MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
COLOURED = (RGB, PALETTE, RGBA)
# libpng writes chunks of 8 kB, other writers larger ones. Each chunk costs more than its bytes.
MIN_CHUNK_BYTES = 1024
MAX_SMALL_CHUNKS = 1000


def probe(data: File, check_shape: CheckShape, selection: Selection) -> Header:
    """As `nuclei.imaging.decoding.probe`."""
    width, height, depth, colour = _ihdr(data)
    check_shape(height, width)
    channels = 3 if colour in COLOURED else 1
    selection.check_single_plane()
    itemsize = 2 if depth == 16 else 1
    row = width * SAMPLES[colour] * itemsize
    # The chunks of the pixels are put together for libpng, which keeps a few rows.
    peak = height * row + 2 * len(data) + 8 * row + 2**20
    kept = 1 if selection.channel is not None else channels
    return Header(height, width, kept, itemsize, peak)


def decode(data: File, check_shape: CheckShape, selection: Selection) -> Decoded:
    """As `nuclei.imaging.decoding.decode`."""
    probe(data, check_shape, selection)
    width, height, depth, colour = _ihdr(data)
    chunks = list(_chunks(data))
    pixels = _pixels(chunks, (height, width), depth, colour)
    ancillary = dict(reversed(chunks))
    size, warnings = png_pixel_size(ancillary.get(b"pHYs"))
    warnings += orientation_warning(exif_orientation(ancillary.get(b"eXIf", b"")))
    palette = None
    if colour == PALETTE:
        palette = np.frombuffer(ancillary.get(b"PLTE", b""), np.uint8).reshape(-1, 3)
    return Decoded(pixels, size, palette, warnings=warnings).with_colour(selection)


def _ihdr(data: File) -> tuple[int, int, int, int]:
    """Width, height, bits of a sample and type of the colours."""
    if len(data) < 26:
        raise ValueError("it ends within its header")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if colour not in SAMPLES:
        raise ValueError(f"unknown type of colours {colour}")
    return width, height, depth, colour


def _chunks(data: File) -> Iterator[tuple[bytes, memoryview]]:
    """Name and contents of each chunk."""
    view = memoryview(data)
    position, name = len(MAGIC), b""
    most = MAX_SMALL_CHUNKS + len(data) // MIN_CHUNK_BYTES
    while name != b"IEND":
        most -= 1
        if most < 0:
            raise InvalidImage("the PNG is made of too many small chunks; save it again")
        length, name = struct.unpack(">I4s", bytes(view[position : position + 8]).ljust(8))
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError("it ends before its last chunk")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4]):
            raise ValueError(f"wrong checksum of chunk {name!r}")
        yield name, view[position + 8 : end]
        position = end + 4


def _pixels(
    chunks: list[tuple[bytes, memoryview]], shape: tuple[int, int], depth: int, colour: int
) -> NDArray[Any]:
    """[H, W] (indices, if there is a palette) or [H, W, 3].

    Only the chunks that hold pixels reach the decoder: no other can change a value.
    """
    header = bytearray(chunks[0][1])
    if colour == PALETTE:
        header[9] = GREY  # the decoder gives colours for a palette
    body = b"".join(contents for name, contents in chunks if name == b"IDAT")
    file = MAGIC + _chunk(b"IHDR", bytes(header)) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    pixels = imagecodecs.png_decode(file)
    if pixels.shape[:2] != shape:
        raise ValueError("its pixels cannot be decoded")
    if depth == 1 and colour == GREY:
        return pixels.astype(np.bool_)
    if depth < 8 and colour == PALETTE:
        pixels //= 255 // (2**depth - 1)  # the decoder stretches grey to 8 bit
    if pixels.ndim == 3:
        pixels = with_samples(pixels, slice(0, 3 if colour in COLOURED else 1))
    return pixels


def _chunk(name: bytes, contents: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(contents, zlib.crc32(name)))
    return b"".join((struct.pack(">I", len(contents)), name, contents, checksum))
