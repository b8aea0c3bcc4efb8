"""Where the objects of a label image lie."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import int32, void
from numpy.typing import NDArray

from nuclei.jit import UINT32_2D, kernel

Window = tuple[slice, slice]


def windows(labels: NDArray[np.uint32]) -> Iterator[Window | None]:
    """The rows and columns that the pixels of each label span, as `scipy.ndimage.find_objects`.

    Args:
        labels: uint32 [H, W], contiguous, 0 is background.

    Yields:
        Those of label 1, 2, ... up to the largest; None where no pixel has that label.
    """
    boxes = np.zeros((int(labels.max(initial=0)) + 1, 4), np.int32)
    _extend(labels, boxes)
    for box in boxes[1:]:
        top, left, bottom, right = box.tolist()
        yield (slice(top, bottom), slice(left, right)) if bottom else None


@kernel(void(UINT32_2D, int32[:, ::1]))
def _extend(labels: NDArray[np.uint32], boxes: NDArray[Any]) -> None:
    """Set the boxes (top, left, bottom, right) of all labels; they are 0 before."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            box = boxes[label]
            if box[2] == 0:
                box[0], box[1] = y, x
            box[1] = min(box[1], x)
            box[2], box[3] = y + 1, max(box[3], x + 1)
