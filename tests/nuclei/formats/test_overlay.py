import numpy as np
import pytest
from scipy import ndimage

from nuclei.formats.overlay import COLOURS_ON_BRIGHT, COLOURS_ON_DARK, overlay, stretched
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


@pytest.mark.parametrize(
    ("background", "colours"), [(1000, COLOURS_ON_DARK), (60000, COLOURS_ON_BRIGHT)]
)
def test_colours_suit_the_background(background: int, colours: tuple[object, ...]) -> None:
    pixels = np.full((600, 600, 1), background, np.uint16)
    pixels[:50], pixels[50:60] = 65535, 0
    picture = overlay(Frame(pixels), SQUARE)
    assert tuple(picture[100, 100].tolist()) in colours


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
