"""The intensity range of a frame: which pixel values become 0 and 1 for the network."""

from typing import Any

import numpy as np
from numba import int64, types, uint8, uint16, void
from numpy.typing import NDArray

from nuclei.jit import kernel

LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.9


def intensity_range(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.float32]:
    """Range [lo, hi] of a frame: its 0.5 and 99.9 percentiles, over all channels together.

    Channels share one range so that the colour of stained tissue is kept.

    Args:
        pixels: uint8 or uint16 [H, W, C] or [H, W], not empty.

    Returns:
        float32 [2], hi at least lo + 1 (a constant frame maps to 0).
    """
    counts = np.zeros(np.iinfo(pixels.dtype).max + 1, np.int64)
    _count(pixels.reshape(-1), counts)
    cumulative = np.cumsum(counts)
    lo, hi = np.searchsorted(
        cumulative, np.array([LOW_PERCENTILE, HIGH_PERCENTILE]) / 100 * cumulative[-1]
    )
    return np.array([lo, max(hi, lo + 1)], dtype=np.float32)


def _counting(value: Any) -> Any:
    """Signature of `_count` for pixels of one type."""
    return void(types.Array(value, 1, "C", readonly=True), int64[::1])


@kernel(_counting(uint8), _counting(uint16))
def _count(values: NDArray[Any], counts: NDArray[np.int64]) -> None:
    """Add the number of occurrences of each value to `counts`."""
    for value in values:
        counts[value] += 1
