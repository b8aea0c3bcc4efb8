import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from nuclei.imaging.intensity import HIGH_PERCENTILE, LOW_PERCENTILE, intensity_range

FRAMES = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=2, max_dims=3, max_side=20))
)


@given(FRAMES)
def test_is_the_percentiles_of_all_channels_together(pixels: NDArray[np.uint16]) -> None:
    lo, hi = intensity_range(pixels)
    found = np.percentile(pixels, [LOW_PERCENTILE, HIGH_PERCENTILE], method="inverted_cdf")
    expected = found.astype(int)
    assert lo == expected[0]
    assert hi == max(expected[1], expected[0] + 1)


@given(FRAMES)
def test_has_its_type_and_is_never_empty(pixels: NDArray[np.uint16]) -> None:
    found = intensity_range(pixels)
    assert found.shape == (2,)
    assert found.dtype == np.float32
    assert found[1] >= found[0] + 1


@pytest.mark.parametrize("value", [0, 1, 255, 65535])
def test_a_constant_frame_maps_to_zero(value: int) -> None:
    pixels = np.full((4, 5, 1), value, np.uint16)
    lo, hi = intensity_range(pixels)
    assert (lo, hi) == (value, value + 1)


def test_few_hot_pixels_do_not_count() -> None:
    pixels = np.full((100, 100), 50, np.uint16)
    pixels[:50] = 10
    pixels[0, :5] = 65535
    assert intensity_range(pixels).tolist() == [10, 50]
