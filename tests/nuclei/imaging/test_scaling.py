"""Frames of every numeric type."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from nuclei.errors import InvalidImage
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, frame_from_array

RANDOM = np.random.default_rng(1)
COUNTS = RANDOM.integers(0, 5000, (40, 50)).astype(np.uint16)


def values(frame: Frame) -> NDArray[np.float64]:
    """What the pixels stand for."""
    return frame.scale.offset + frame.scale.step * frame.pixels[:, :, 0].astype(np.float64)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_camera_pixels_stay_as_they_are(dtype: type) -> None:
    pixels = COUNTS.astype(dtype)
    frame = frame_from_array(pixels)
    assert frame.pixels.dtype == dtype
    assert np.shares_memory(frame.pixels, pixels)
    assert not frame.warnings


@pytest.mark.parametrize(
    "dtype", [np.int16, np.uint32, np.int32, np.int64, np.uint64, np.float32, np.float64, ">i4"]
)
def test_whole_numbers_keep_their_values(dtype: Any) -> None:
    frame = frame_from_array(COUNTS.astype(dtype))
    assert frame.pixels.dtype == np.uint16
    np.testing.assert_array_equal(frame.pixels[:, :, 0], COUNTS)
    assert frame.scale == (0, 1)
    assert not frame.warnings


@pytest.mark.parametrize(
    "pixels",
    [
        COUNTS.astype(np.int16) - 3000,
        COUNTS.astype(np.int32) - np.int32(2**31 - 1),
        COUNTS.astype(np.uint32) + np.uint32(2**31),
        COUNTS.astype(np.float32) - 5000,
        (COUNTS.astype(np.int16) % 256 - 128).astype(np.int8),
    ],
    ids=["int16", "int32", "uint32", "float32", "int8"],
)
def test_whole_numbers_that_span_16_bit_are_moved_only(pixels: NDArray[Any]) -> None:
    frame = frame_from_array(pixels)
    np.testing.assert_array_equal(values(frame), pixels)
    assert not frame.warnings


@pytest.mark.parametrize("factor", [1 / 5000, 1e-30, 1e30, 3.3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_others_are_scaled_by_their_range(factor: float, dtype: Any) -> None:
    pixels = (COUNTS * factor + factor / 3).astype(dtype)
    frame = frame_from_array(pixels)
    assert (frame.pixels.min(), frame.pixels.max()) == (0, 65535)
    np.testing.assert_allclose(values(frame), pixels, atol=float(np.ptp(pixels)) / 65535)
    (said,) = frame.warnings
    assert f"{np.dtype(dtype)} from {pixels.min():g} to {pixels.max():g}" in said


def test_half_floats_are_scaled_too() -> None:
    frame = frame_from_array((COUNTS / 5000).astype(np.float16))
    assert "float16" in frame.warnings[0]


def test_large_integers_are_scaled() -> None:
    pixels = COUNTS.astype(np.uint32) * 800_000
    frame = frame_from_array(pixels)
    np.testing.assert_allclose(values(frame), pixels, atol=4e9 / 65535)
    assert "uint32" in frame.warnings[0]


def test_far_outliers_do_not_take_the_levels_of_the_others() -> None:
    pixels = (COUNTS / 5000).astype(np.float32)
    pixels[0, 0] = 1e6
    frame = frame_from_array(pixels)
    assert frame.pixels[0, 0, 0] == 65535
    np.testing.assert_allclose(values(frame)[1:], pixels[1:], atol=1e-3)
    assert "clipped" in frame.warnings[0]


@pytest.mark.parametrize("value", [0.25, -3.0, 0.0, 1e-320, 3.4e38])
def test_a_constant_frame_is_black(value: float) -> None:
    frame = frame_from_array(np.full((5, 5), value))
    assert np.ptp(frame.pixels) == 0
    np.testing.assert_allclose(values(frame), value)


def test_the_widest_floats_are_scaled() -> None:
    frame = frame_from_array(np.array([[-1.7e38, 0], [1, 1.7e38]]))
    assert frame.pixels[:, :, 0].tolist() == [[0, 32768], [32768, 65535]]
    assert np.isfinite(frame.scale.value(frame.pixels.astype(np.float32))).all()


@pytest.mark.parametrize("most", [1e39, 1.7e308])
@pytest.mark.parametrize("least", [0.5, -0.9, -1])
def test_values_that_float32_does_not_hold_are_refused(least: float, most: float) -> None:
    """Results would be infinite: JSON has no such numbers."""
    with pytest.raises(InvalidImage, match="divide them"):
        frame_from_array(np.array([[least * most, 0], [most / 3, most]]))
    with pytest.raises(InvalidImage, match="divide them"):
        frame_from_array(np.full((4, 4), most))


def test_truth_values_become_black_and_white() -> None:
    mask = COUNTS > 2500
    np.testing.assert_array_equal(frame_from_array(mask).pixels[:, :, 0], mask * 255)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_counted_and_refused(value: float) -> None:
    pixels = COUNTS.astype(np.float32)
    pixels[:2, :3] = value
    with pytest.raises(InvalidImage, match="6 values of the image are NaN or infinite"):
        frame_from_array(pixels)


@pytest.mark.parametrize("dtype", [np.complex64, "U3", "datetime64[s]", object])
def test_what_are_no_numbers_is_refused(dtype: Any) -> None:
    with pytest.raises(InvalidImage, match="expected integers or floats"):
        frame_from_array(np.zeros((4, 4), dtype))


@given(
    arrays.arrays(st.sampled_from(["i2", "u4", "i4", "i8", "u8"]), (3, 4))
    | arrays.arrays(
        st.sampled_from(["f4", "f8"]),
        (3, 4),
        elements={"min_value": -(2.0**126), "max_value": 2.0**126},
    )
)
def test_the_order_of_values_is_kept(pixels: NDArray[Any]) -> None:
    stored = frame_from_array(pixels).pixels.reshape(-1)
    order = np.argsort(pixels.reshape(-1), kind="stable")
    assert (np.diff(stored[order].astype(int)) >= 0).all()


def test_an_intensity_range_is_in_the_units_of_the_frame() -> None:
    frame = frame_from_array(
        (COUNTS / 5000).astype(np.float32), FrameOptions(intensity_range=(0.1, 0.5))
    )
    assert frame.intensity_range == (0.1, 0.5)


def test_percentiles_are_those_of_the_pixels() -> None:
    pixels = (COUNTS / 5000).astype(np.float32)
    frame = frame_from_array(pixels, FrameOptions(intensity_percentiles=(1, 90)))
    np.testing.assert_allclose(frame.intensity_range, np.percentile(pixels, (1, 90)), atol=1e-3)


def test_percentiles_of_a_constant_frame_are_a_range() -> None:
    options = FrameOptions(intensity_percentiles=(1, 90))
    lo, hi = frame_from_array(np.full((5, 5), 7, np.uint8), options).intensity_range or (0, 0)
    assert lo < hi
