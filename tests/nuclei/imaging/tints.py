"""The pseudo-colours in which fluorescence is shown."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TINTS = {
    "blue": (0, 0, 1),
    "green": (0, 1, 0),
    "red": (1, 0, 0),
    "cyan": (0, 1, 1),
    "magenta": (1, 0, 1),
    "yellow": (1, 1, 0),
    "DAPI blue": (0.2, 0.35, 1),
    "orange": (1, 0.5, 0),
}


def tinted(grey: NDArray[Any], tint: tuple[float, ...]) -> NDArray[np.uint8]:
    """A grey frame of 8 bit, [H, W, 1], in a colour: uint8 [H, W, 3]."""
    return np.asarray((grey * np.array(tint)).round(), np.uint8)
