"""Frames that no protocol accepts."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from nuclei.errors import ChoiceRequired, FrameTooLarge, InvalidImage

EXAMPLES = Path(__file__).parents[3] / "examples"


@dataclass(frozen=True)
class BadFrame:
    """An encoded frame, and the error that is expected."""

    name: str
    encoded: Callable[[], bytes]
    error: type[InvalidImage]
    says: str


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack")
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def zero_wide_png() -> bytes:
    good = bytearray(png(np.zeros((8, 8), np.uint8)))
    good[16:20] = bytes(4)
    return bytes(good)


BAD_FRAMES = [
    BadFrame("empty", lambda: b"", InvalidImage, "empty"),
    BadFrame("no image", lambda: b"a text, not an image", InvalidImage, "not an image"),
    BadFrame(
        "truncated PNG",
        lambda: (EXAMPLES / "fluorescence.png").read_bytes()[:20000],
        InvalidImage,
        "truncated",
    ),
    BadFrame(
        "truncated TIFF",
        lambda: (EXAMPLES / "fluorescence_16bit.tif").read_bytes()[:20000],
        InvalidImage,
        "truncated",
    ),
    BadFrame("zero wide", zero_wide_png, InvalidImage, ""),
    BadFrame("not numbers", lambda: tiff(np.full((8, 8), np.nan, np.float32)), InvalidImage, "NaN"),
    BadFrame("stack", lambda: tiff(np.zeros((3, 8, 8), np.uint8)), ChoiceRequired, "3 pages"),
    BadFrame(
        "too wide", lambda: png(np.zeros((2, 16385), np.uint8)), FrameTooLarge, "16384 per side"
    ),
]


@pytest.fixture(params=BAD_FRAMES, ids=lambda bad: bad.name)
def bad_frame(request: pytest.FixtureRequest) -> BadFrame:
    bad: BadFrame = request.param
    return bad
