"""The intensity range of a frame: which pixel values become 0 and 1 for the network."""

import numpy as np
from numpy.typing import NDArray

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
    counts = np.bincount(pixels.ravel(), minlength=2)
    cumulative = np.cumsum(counts)
    lo, hi = np.searchsorted(
        cumulative, np.array([LOW_PERCENTILE, HIGH_PERCENTILE]) / 100 * cumulative[-1]
    )
    return np.array([lo, max(hi, lo + 1)], dtype=np.float32)
