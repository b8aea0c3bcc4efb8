from typing import Any

import numpy as np
import pytest
from numba import int64

from nuclei.jit import UINT8_2D, kernel


def test_takes_read_only_and_writable_arrays_of_its_type_only() -> None:
    @kernel(int64(UINT8_2D))
    def corner(pixels: np.ndarray) -> int:
        return int(pixels[0, 0])

    read_only = np.frombuffer(b"\x07\x08", np.uint8).reshape(1, 2)
    assert corner(read_only) == corner(read_only.copy()) == 7
    # Any other type would have to be compiled while a frame waits.
    with pytest.raises(TypeError, match="No matching definition"):
        corner(read_only.astype(np.float32))


def test_compiles_where_no_cache_can_be_kept() -> None:
    namespace: dict[str, Any] = {}
    exec("def twice(number):\n    return 2 * number", namespace)  # no file, so no place for a cache
    assert kernel(int64(int64))(namespace["twice"])(4) == 8
