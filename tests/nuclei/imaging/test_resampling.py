import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nuclei.imaging import resampling
from nuclei.imaging.resampling import labels_at, resampled

sides = st.integers(1, 40)


def discs(side: int) -> NDArray[np.uint32]:
    """Two discs that touch, and one apart, numbered 7, 500 and 3."""
    drawn = np.zeros((side, side), np.uint32)
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    for centre_x, centre_y, number in ((0.3, 0.3, 7), (0.55, 0.3, 500), (0.7, 0.75, 3)):
        drawn[np.hypot(x - centre_x, y - centre_y) < 0.125] = number
    return drawn


@settings(max_examples=50)
@given(sides, sides, sides, sides, st.integers(0, 100))
def test_no_label_is_invented(h: int, w: int, height: int, width: int, seed: int) -> None:
    labels = np.random.default_rng(seed).choice([0, 3, 9, 2**32 - 1], (h, w)).astype(np.uint32)
    made = labels_at(labels, (height, width))
    assert made.shape == (height, width)
    assert made.dtype == np.uint32
    assert set(made.flat) <= set(labels.flat)
    np.testing.assert_array_equal(labels_at(labels, (h, w)), labels)


@pytest.mark.parametrize("scale", [0.4, 0.75, 1.5, 4])
def test_nuclei_keep_their_place_and_shape(scale: float) -> None:
    labels, side = discs(160), round(160 * scale)
    made, drawn = labels_at(labels, (side, side)), discs(side)
    for number in (3, 7, 500):
        both, either = (made == number) & (drawn == number), (made == number) | (drawn == number)
        assert both.sum() / either.sum() > 0.85


def test_outlines_are_smoother_than_those_of_the_nearest_pixel() -> None:
    labels, drawn = discs(80), discs(640)
    nearest = labels.repeat(8, axis=0).repeat(8, axis=1)
    errors = [np.count_nonzero(each != drawn) for each in (labels_at(labels, (640, 640)), nearest)]
    assert errors[0] < 0.8 * errors[1]


def test_it_does_not_matter_in_how_many_bands_labels_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, checks = labels_at(discs(100), (250, 130)), []
    monkeypatch.setattr(resampling, "BAND_PX", 700)
    np.testing.assert_array_equal(
        labels_at(discs(100), (250, 130), lambda: checks.append(1)), whole
    )
    assert len(checks) == 50


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_keep_their_type_and_level(dtype: type, channels: int) -> None:
    level = np.iinfo(dtype).max - 3
    pixels = np.full((30, 40, channels), level, dtype)
    for shape in ((60, 80), (15, 20), (1, 1)):
        made = resampled(pixels, shape)
        assert made.shape == (*shape, channels)
        assert made.dtype == dtype
        assert made.flags.c_contiguous
        assert (made == level).all()


def test_a_frame_that_shrinks_is_averaged() -> None:
    pixels = np.zeros((20, 20, 1), np.uint16)
    pixels[::2, ::2] = 4000
    assert (resampled(pixels, (10, 10)) == 1000).all()
