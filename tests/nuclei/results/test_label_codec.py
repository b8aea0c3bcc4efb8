import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from nuclei.results.label_codec import compress_labels, decompress_labels

LABELS = np.arange(600, dtype=np.uint32).reshape(20, 30) // 50


@given(
    arrays.arrays(
        np.uint32,
        st.tuples(st.integers(1, 20), st.integers(1, 20)),
        elements=st.integers(0, 2**32 - 1),
    )
)
def test_compressed_labels_come_back(labels: NDArray[np.uint32]) -> None:
    back = decompress_labels(compress_labels(labels), *labels.shape)
    assert back.dtype == np.uint32
    np.testing.assert_array_equal(back, labels)


@pytest.mark.parametrize(
    ("data", "height", "width"),
    [
        (b"garbage", 20, 30),
        (compress_labels(LABELS)[:-3], 20, 30),
        (compress_labels(LABELS), 20, 31),
        (compress_labels(LABELS), 10, 30),
    ],
)
def test_decompress_refuses_damage_and_other_sizes(data: bytes, height: int, width: int) -> None:
    with pytest.raises(InvalidData):
        decompress_labels(data, height, width)
