"""Bands of rows, in which whole frames are worked on with little memory beside their own."""

from collections.abc import Iterator

BAND_PX = 2**22


def bands(height: int, width: int) -> Iterator[range]:
    """The rows of an image, about BAND_PX pixels at a time."""
    rows = max(1, BAND_PX // width)
    for start in range(0, height, rows):
        yield range(start, min(start + rows, height))
