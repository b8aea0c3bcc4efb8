"""Pixels of a frame on the microscope's stage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.errors import InvalidOption
from nuclei.results.coordinates import StageTransform

SIZES = st.floats(0.01, 10)
SIDES = st.integers(1, 5000)
PLACES = st.floats(-1e5, 1e5)


@given(centre=st.tuples(PLACES, PLACES), size=st.tuples(SIZES, SIZES), h=SIDES, w=SIDES)
def test_centre_of_a_centred_frame_is_its_position(
    centre: tuple[float, float], size: tuple[float, float], h: int, w: int
) -> None:
    middle = np.array([[(h - 1) / 2, (w - 1) / 2]], np.float32)
    np.testing.assert_allclose(
        StageTransform.centred(centre, size, (h, w)).apply(middle), [centre], atol=1e-3
    )


@given(centre=st.tuples(PLACES, PLACES), size=st.tuples(SIZES, SIZES), angle=st.floats(0, 6))
def test_pixel_size_survives_rotation(
    centre: tuple[float, float], size: tuple[float, float], angle: float
) -> None:
    upright = StageTransform.centred(centre, size, (100, 80))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = StageTransform(np.hstack([turn @ upright.matrix[:, :2], upright.matrix[:, 2:]]))
    np.testing.assert_allclose(turned.pixel_size_um, size, rtol=1e-9)


def test_x_is_the_column() -> None:
    stage = StageTransform(np.array([[2.0, 0, 100], [0, 3, 200]]))
    np.testing.assert_array_equal(stage.apply(np.array([[1, 10]], np.float32)), [[120, 203]])


@pytest.mark.parametrize(
    "matrix",
    [
        [[0, 0, 1], [0, 0, 1]],
        [[1, 2, 0], [2, 4, 0]],
        [[np.nan, 0, 0], [0, 1, 0]],
        [[1, 0, np.inf], [0, 1, 0]],
    ],
)
def test_map_that_is_no_calibration_is_refused(matrix: list[list[float]]) -> None:
    with pytest.raises(InvalidOption, match="pixel_to_stage"):
        StageTransform(np.array(matrix, np.float64))
