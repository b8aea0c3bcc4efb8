import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from nuclei.formats.overlay import COLOURS, overlay, stretched
from nuclei.imaging.images import Frame

SQUARE = np.zeros((600, 600), np.uint32)
SQUARE[100:200, 100:200] = 1
SQUARE[100:200, 200:300] = 2


def coloured(picture: np.ndarray) -> np.ndarray:
    return picture.max(axis=2).astype(int) - picture.min(axis=2) > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_outlines_are_the_inner_edge_of_each_nucleus(channels: int, dtype: type) -> None:
    picture = overlay(Frame(np.zeros((600, 600, channels), dtype)), SQUARE)
    assert picture.shape == (600, 600, 3)
    assert picture.dtype == np.uint8
    expected = np.zeros((600, 600), bool)
    for label in (1, 2):
        nucleus = label == SQUARE
        expected |= nucleus & ~ndimage.binary_erosion(nucleus)
    np.testing.assert_array_equal(coloured(picture), expected)
    assert (picture[150, 199] != picture[150, 200]).any(), "touching nuclei share a colour"


# Hematoxylin, eosin, DAB, an empty slide, a dark frame.
BACKGROUNDS = ((60, 50, 130), (225, 120, 180), (110, 70, 40), (245, 245, 245), (5, 5, 5))


@pytest.mark.parametrize("nucleus", BACKGROUNDS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_outlines_stand_out_whatever_is_stained(
    background: tuple[int, ...], nucleus: tuple[int, ...]
) -> None:
    pixels = np.full((600, 600, 3), background, np.uint8)
    pixels[SQUARE > 0] = nucleus
    pixels[:20], pixels[20:40] = 0, 255
    picture = overlay(Frame(pixels), SQUARE).astype(int)
    line, dark = picture[100, 150], picture[99, 150]
    shown = picture[90, 150], picture[120, 150]
    assert tuple(line) in COLOURS
    assert min(abs(line - one).sum() + abs(dark - one).sum() for one in (line, *shown)) > 150


def test_outlines_are_wider_on_large_frames_and_leave_small_nuclei_visible() -> None:
    labels = np.zeros((2000, 1500), np.uint32)
    labels[100:300, 100:300] = 1
    large = Frame(np.zeros((2000, 1500, 1), np.uint8))
    assert coloured(overlay(large, labels))[200, 100:300].sum() == 2 * 3
    labels[:] = 0
    labels[100:110, 100:110] = 1
    assert coloured(overlay(large, labels))[105, 100:110].sum() == 2


def test_numbers_of_nuclei_may_be_large() -> None:
    frame = Frame(np.full((600, 600, 1), 9, np.uint8))
    labels = np.zeros((600, 600), np.uint32)
    labels[20:60, 20:60], labels[100:150, 100:150] = 1, 6
    expected = overlay(frame, labels)
    labels[labels == 6] = 2**32 - 1 - (2**32 - 1 - 6) % len(COLOURS)
    tracemalloc.start()
    np.testing.assert_array_equal(overlay(frame, labels), expected)
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


def test_small_frames_are_enlarged() -> None:
    labels = np.zeros((100, 200), np.uint32)
    labels[10:20, 10:20] = 1
    picture = overlay(Frame(np.zeros((100, 200, 1), np.uint8)), labels)
    assert picture.shape == (300, 600, 3)
    outlined = coloured(picture)
    assert outlined[30, 30:60].all()
    assert not outlined[31:59, 31:59].any()


def test_contrast_is_stretched_over_the_intensity_range() -> None:
    pixels = np.full((100, 100, 1), 300, np.uint16)
    pixels[50:] = 500
    picture = stretched(Frame(pixels))
    assert picture.shape == (100, 100, 3)
    assert (picture[0, 0] == 0).all()
    assert (picture[99, 0] == 255).all()


def test_a_frame_without_nuclei_stays_grey() -> None:
    frame = Frame(np.random.default_rng(0).integers(0, 256, (600, 600, 1), dtype=np.uint8))
    assert not coloured(overlay(frame, np.zeros((600, 600), np.uint32))).any()
