"""JPEG: every process that decoders read, and what the others are called."""

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from nuclei.errors import InvalidImage
from nuclei.imaging.images import read_frame
from tests.nuclei.imaging.decoding.files import GREY16, RGB8, exif, pillow, segment

SMOOTH = cv2.GaussianBlur(RGB8, (0, 0), 8)
GREY12 = SMOOTH[:, :, 0].astype(np.uint16) * 16


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_colours_stay_near(options: dict[str, object]) -> None:
    pixels = read_frame(pillow(SMOOTH, "JPEG", quality=98, **options)).pixels
    assert np.abs(pixels.astype(int) - SMOOTH).max() < 12


def test_inks_become_colours() -> None:
    cmyk = Image.fromarray(SMOOTH).convert("CMYK")
    pixels = read_frame(pillow(cmyk, "JPEG", quality=98)).pixels
    assert np.abs(pixels.astype(int) - SMOOTH).max() < 12


def test_12_bit() -> None:
    data = imagecodecs.jpeg8_encode(GREY12, bitspersample=12, level=98)
    pixels = read_frame(data).pixels[:, :, 0]
    assert pixels.dtype == np.uint16
    assert np.abs(pixels.astype(int) - GREY12).max() < 100


@pytest.mark.parametrize("bits", [12, 16])
def test_lossless(bits: int) -> None:
    stored = GREY16 >> (16 - bits)
    data = imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=bits)
    np.testing.assert_array_equal(read_frame(data).pixels[:, :, 0], stored)


def test_what_is_not_read_is_named() -> None:
    data = pillow(SMOOTH, "JPEG").replace(b"\xff\xc0", b"\xff\xc5")
    with pytest.raises(InvalidImage, match=r"hierarchical.*save it as") as refused:
        read_frame(data)
    assert "damaged" not in str(refused.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_come_in_the_order_in_which_they_are_stored(orientation: int) -> None:
    plain = pillow(SMOOTH, "JPEG")
    data = plain[:2] + segment(0xE1, b"Exif\0\0" + exif(orientation)) + plain[2:]
    frame = read_frame(data)
    np.testing.assert_array_equal(frame.pixels, read_frame(plain).pixels)
    assert ("orientation" in " ".join(frame.warnings)) == (orientation != 1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_truncated_jpeg_is_never_accepted(options: dict[str, object]) -> None:
    data = pillow(SMOOTH, "JPEG", **options)
    for length in range(0, len(data), 7):
        with pytest.raises(InvalidImage):
            read_frame(data[:length])
    with pytest.raises(InvalidImage):
        read_frame(data[:-1])
