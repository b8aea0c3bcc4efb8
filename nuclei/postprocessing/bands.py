"""Bands of rows, so that whole frames are processed with little additional memory."""

from collections.abc import Iterator

BAND_PX = 2**22


def bands(height: int, width: int) -> Iterator[range]:
    """The rows of an image, about BAND_PX pixels at a time."""
    rows = max(1, BAND_PX // width)
    for start in range(0, height, rows):
        yield range(start, min(start + rows, height))
