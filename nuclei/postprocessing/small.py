"""Nuclei that are too small, left out of a label image."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nuclei.postprocessing.bands import bands


def leave_out_small(
    labels: NDArray[np.uint32],
    count: int,
    min_area_px: float,
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.intp]:
    """Leave out the nuclei of fewer pixels, and those of none, and number the others anew.

    Args:
        labels: uint32 [H, W], 0 is background, at most `count`; changed in place to 1..K without
            gaps, in the same order.
        count: number of nuclei, N.
        min_area_px: pixels.
        check: called every few megapixels; an exception that it raises ends the work.

    Returns:
        The nuclei that are kept, intp [K], from 0 to N - 1.
    """
    area = np.zeros(count + 1, np.int64)
    for rows in bands(*labels.shape):
        check()
        area += np.bincount(labels[rows.start : rows.stop].reshape(-1), minlength=count + 1)
    kept = area >= max(min_area_px, 1)
    kept[0] = False
    if not kept[1:].all():
        number = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)
        for rows in bands(*labels.shape):
            check()
            labels[rows.start : rows.stop] = number[labels[rows.start : rows.stop]]
    return np.flatnonzero(kept[1:])
