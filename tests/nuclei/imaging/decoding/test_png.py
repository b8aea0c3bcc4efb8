"""PNG: the stored values, whatever else the file says."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.errors import InvalidImage
from nuclei.imaging.images import read_frame
from tests.nuclei.imaging.decoding.files import (
    GREY8,
    GREY16,
    RGB8,
    RGB16,
    chunk,
    exif,
    pillow,
    with_chunk,
)

FAINT8, FAINT16 = np.full_like(GREY8, 3), np.full_like(GREY16, 3)


def png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Written by OpenCV, of RGB(A)."""
    order = pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    return cv2.imencode(".png", order)[1].tobytes()


@pytest.mark.parametrize("rgb", [RGB8, RGB16], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("alpha", [0, 3, 255])
def test_alpha_is_left_out(rgb: NDArray[np.uint8], alpha: int) -> None:
    faint = np.full(rgb.shape[:2], alpha, rgb.dtype)
    np.testing.assert_array_equal(read_frame(png(np.dstack([rgb, faint]))).pixels, rgb)


def test_alpha_of_grey_is_left_out() -> None:
    data = pillow(np.dstack([GREY8, FAINT8]), "PNG")
    np.testing.assert_array_equal(read_frame(data).pixels[:, :, 0], GREY8)


CHUNKS = {
    "a transparent value": (b"tRNS", bytes(6)),
    "gamma": (b"gAMA", struct.pack(">I", 10_000)),
    "a background": (b"bKGD", bytes(6)),
    "significant bits": (b"sBIT", bytes([1, 1, 1])),
    "the header of an animation": (b"acTL", struct.pack(">II", 2, 0)),
    "text that inflates": (b"zTXt", b"a\0\0" + zlib.compress(bytes(10_000_000))),
    "a damaged profile": (b"iCCP", b"icc\0\0" + bytes(20)),
}


@pytest.mark.parametrize("case", CHUNKS)
def test_no_other_chunk_changes_a_value(case: str) -> None:
    frame = read_frame(with_chunk(png(RGB16), *CHUNKS[case]))
    np.testing.assert_array_equal(frame.pixels, RGB16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_come_in_the_order_in_which_they_are_stored(orientation: int) -> None:
    frame = read_frame(with_chunk(png(RGB8), b"eXIf", exif(orientation)))
    np.testing.assert_array_equal(frame.pixels, RGB8)
    assert ("orientation" in " ".join(frame.warnings)) == (orientation != 1)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_fills_the_range(bits: int) -> None:
    values = GREY8[:, :48] >> (8 - bits)
    per_byte = 8 // bits
    packed = sum(
        values[:, i::per_byte].astype(np.uint8) << (8 - bits * (i + 1)) for i in range(per_byte)
    )
    rows = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in np.asarray(packed))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 40, bits, 0, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    expected = values * (255 // (2**bits - 1))
    np.testing.assert_array_equal(read_frame(data).pixels[:, :, 0], expected)


@pytest.mark.parametrize("rows", [0, 1, 39])
def test_missing_rows_are_damage(rows: int) -> None:
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 50, 40, 8, 0, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(bytes(51 * rows))) + chunk(b"IEND", b"")
    with pytest.raises(InvalidImage, match="truncated or damaged"):
        read_frame(data)
