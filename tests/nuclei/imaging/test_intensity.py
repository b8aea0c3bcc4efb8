import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from nuclei.errors import InvalidOption
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import frame_from_array, read_frame
from nuclei.imaging.intensity import (
    HIGH_PERCENTILE,
    LOW_PERCENTILE,
    intensity_of,
    intensity_range,
)

EXAMPLES = Path(__file__).parents[3] / "examples"
REAL = read_frame(EXAMPLES / "fluorescence_16bit.tif").pixels
RANDOM = np.random.default_rng(0)
FRAMES = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=2, max_dims=3, max_side=20))
)


def percentiles(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> list[int]:
    ordered = np.sort(pixels, axis=None)
    shares = (LOW_PERCENTILE / 100, HIGH_PERCENTILE / 100)
    return [int(ordered[max(0, math.ceil(share * ordered.size) - 1)]) for share in shares]


@given(FRAMES)
def test_has_its_type_and_lies_within_the_percentiles(pixels: NDArray[np.uint16]) -> None:
    lo, hi = intensity_range(pixels).range
    expected = percentiles(pixels)
    assert lo == expected[0]
    assert lo + 1 <= hi <= max(expected[1], lo + 1)
    assert intensity_range(pixels).range.dtype == np.float32


@pytest.mark.parametrize(
    "name",
    [
        "brightfield.png",
        "fluorescence.png",
        "fluorescence_16bit.tif",
        "histology.png",
        "histology_2.png",
    ],
)
def test_is_the_percentiles_of_all_channels_of_a_clean_frame(name: str) -> None:
    pixels = read_frame(EXAMPLES / name).pixels
    found = intensity_range(pixels)
    lo, hi = percentiles(pixels)
    # The largest are not looked at in every row.
    assert found.range == pytest.approx([lo, hi], rel=0.02)
    assert not found.warnings


@pytest.mark.parametrize("value", [0, 1, 255, 65535])
def test_a_constant_frame_maps_to_zero(value: int) -> None:
    pixels = np.full((4, 5, 1), value, np.uint16)
    assert intensity_range(pixels).range.tolist() == [value, value + 1]


@pytest.mark.parametrize("share", [0.0005, 0.002, 0.01])
@pytest.mark.parametrize("value", [5000, 65535])
def test_hot_pixels_do_not_count(share: float, value: int) -> None:
    pixels = REAL.copy()
    pixels[RANDOM.random(pixels.shape) < share] = value
    found = intensity_range(pixels)
    assert found.range == pytest.approx(intensity_range(REAL).range, rel=0.05)
    assert share < 0.001 or "hot pixels" in found.warnings[0]


def with_disc(pixels: NDArray[np.uint16], times: int) -> NDArray[np.uint16]:
    """A disc of 0.14 % of the frame, so many times as bright as its 99.9 percentile."""
    pixels = pixels.copy()
    radius = round((0.0014 * pixels.size / np.pi) ** 0.5)
    value = min(65535, times * percentiles(pixels)[1])
    cv2.circle(pixels, (200, 150), radius, value, -1)
    return pixels


@pytest.mark.parametrize("times", [3, 10, 50])
def test_debris_does_not_count(times: int) -> None:
    found = intensity_range(with_disc(REAL, times))
    assert found.range == pytest.approx(intensity_range(REAL).range, rel=0.1)
    assert "debris" in found.warnings[0]


def test_a_saturated_fibre_does_not_count() -> None:
    pixels = REAL.copy()
    cv2.line(pixels, (0, 40), (600, 400), 65535, 2)
    found = intensity_range(pixels)
    assert found.range == pytest.approx(intensity_range(REAL).range, rel=0.1)
    assert "debris" in found.warnings[0]


def test_a_single_bright_nucleus_on_noise_counts() -> None:
    pixels = RANDOM.normal(200, 10, (512, 512, 1)).astype(np.uint16)
    cv2.circle(pixels, (250, 250), 14, 4000, -1)
    found = intensity_range(pixels)
    assert found.range[1] == 4000
    assert not found.warnings


def test_warnings_name_values_in_the_units_of_the_frame() -> None:
    random = np.random.default_rng(3)
    pixels = random.normal(0.01, 0.001, (256, 256)).astype(np.float32)
    pixels[100:160, 100:160] += 0.02
    pixels.reshape(-1)[random.choice(pixels.size, 300, replace=False)] = 1.0
    (said,) = intensity_of(frame_from_array(pixels)).warnings
    assert said.startswith("hot pixels")
    assert float(said.split("brighter than ")[1].split()[0]) < 0.05


@pytest.mark.parametrize(
    "asked", [(0.0, 1e39), (-3e38, 3e38), (1e9, 1e9 + 1)], ids=["too large", "too wide", "one"]
)
def test_a_range_that_float32_cannot_hold_is_refused(asked: tuple[float, float]) -> None:
    frame = frame_from_array(REAL, FrameOptions(intensity_range=asked))
    with pytest.raises(InvalidOption, match=r"intensity_range is .*float32"):
        intensity_of(frame)
