import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.imaging.boxes import windows


@given(
    arrays.arrays(
        np.uint32,
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.sampled_from([0, 0, 0, 1, 2, 3, 7]),
    )
)
def test_windows_are_those_of_scipy(labels: NDArray[np.uint32]) -> None:
    labels.flags.writeable = False
    assert list(windows(labels)) == ndimage.find_objects(labels.astype(np.int32))


def test_a_single_pixel_in_the_last_corner_is_found() -> None:
    labels = np.zeros((300, 500), np.uint32)
    labels[299, 499] = 2
    assert list(windows(labels)) == [None, (slice(299, 300), slice(499, 500))]
