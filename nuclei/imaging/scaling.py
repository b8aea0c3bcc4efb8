"""Pixels of any numeric type as the 8 or 16 bit that the network reads."""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidImage

LEVELS = 2**16 - 1
# Beyond this many times the span of nearly all pixels, values are clipped: those pixels then have
# at least a thousand of the levels.
REACH = 32
PERCENTILES = (0.1, 99.9)
SAMPLE_PX = 2**17
BAND_PX = 2**18

LARGEST = float(np.finfo(np.float32).max)

Number = TypeVar("Number", float, NDArray[np.float32])


class Scale(NamedTuple):
    """From stored pixels to a frame's own values: value = offset + step * pixel."""

    offset: float = 0.0
    step: float = 1.0

    def value(self, pixel: Number) -> Number:
        """The value that a stored pixel stands for."""
        return self.offset + self.step * pixel

    def pixel(self, value: Number) -> Number:
        """The stored pixel that stands for a value."""
        return (value - self.offset) / self.step

    def after(self, first: "Scale") -> "Scale":
        """The values of this scale where its pixels are the values of another.

        Raises:
            InvalidImage: float32, in which results are, does not hold the values.
        """
        scale = Scale(self.value(first.offset), self.step * first.step)
        span = LEVELS * scale.step
        # The span as well, since values are computed in float32.
        if not max(abs(scale.offset), span, abs(scale.offset + span)) <= LARGEST:
            raise InvalidImage(
                f"the values of the image go from {scale.offset:g} to {scale.offset + span:g}; "
                f"expected a range within {LARGEST:.2g}, which float32 holds: divide them"
            )
        return scale


AS_STORED = Scale()


def scaled(
    pixels: NDArray[Any],
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], Scale, tuple[str, ...]]:
    """Pixels of 8 or 16 bit, the way back to their values, and warnings.

    uint8 and uint16 stay as they are. False and True become 0 and 255. Whole numbers, also as
    floats, keep their values where these span less than 2**16. All others are scaled linearly by
    their range; far outliers are clipped.

    Args:
        pixels: [H, W, C], not empty.

    Raises:
        InvalidImage: not numbers, complex, infinite or NaN.
    """
    native = pixels.dtype.newbyteorder("=")
    if native in (np.uint8, np.uint16):
        return np.ascontiguousarray(pixels, dtype=native), AS_STORED, ()
    if native == np.bool_:
        return np.ascontiguousarray(pixels, np.uint8) * np.uint8(255), AS_STORED, ()
    if native.kind not in "iuf":
        raise InvalidImage(f"pixels are {pixels.dtype}; expected integers or floats: convert them")
    _check_finite(pixels)
    lo, hi = pixels.min().item(), pixels.max().item()
    if hi - lo <= LEVELS and _is_whole(pixels):
        offset = 0 if lo >= 0 and hi <= LEVELS else lo
        return _linear(pixels, offset, 1), Scale(float(offset)), ()
    least, most = _within_reach(pixels, float(lo), float(hi))
    step = most / LEVELS - least / LEVELS
    if step < np.finfo(np.float64).tiny:
        step = 1.0  # all are the same
    said = f"the pixels are {native} from {lo:g} to {hi:g}, scaled to 16 bit"
    if (least, most) != (lo, hi):
        said += f"; values beyond {least:g} to {most:g}, far from nearly all others, were clipped"
    return _linear(pixels, least, step), Scale(least, step), (said,)


def _check_finite(pixels: NDArray[Any]) -> None:
    if pixels.dtype.kind != "f":
        return
    missing = sum(int((~np.isfinite(band)).sum()) for band in _bands(pixels))
    if missing:
        raise InvalidImage(
            f"{missing} values of the image are NaN or infinite; expected numbers: replace them, "
            "for example with numpy.nan_to_num"
        )


def _is_whole(pixels: NDArray[Any]) -> bool:
    if pixels.dtype.kind != "f":
        return True
    return all(bool((band == np.rint(band)).all()) for band in _bands(pixels))


def _within_reach(pixels: NDArray[Any], lo: float, hi: float) -> tuple[float, float]:
    """The range of the pixels, without far outliers."""
    sample = pixels.reshape(-1)[:: pixels.size // SAMPLE_PX | 1].astype(np.float64)
    low, high = np.percentile(sample, PERCENTILES).tolist()
    reach = REACH * (high - low)
    if not reach > 0:
        return lo, hi
    return max(lo, low - reach), min(hi, high + reach)


def _linear(pixels: NDArray[Any], offset: float, step: float) -> NDArray[np.uint16]:
    numbers = np.empty(pixels.shape, np.uint16)
    for band, into in zip(_bands(pixels), _bands(numbers), strict=True):
        # Halves, since the difference itself may be infinite.
        values = (band.astype(np.float64) / 2 - offset / 2) / (step / 2)
        into[...] = np.rint(np.clip(values, 0, LEVELS))
    return numbers


def _bands(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Groups of rows, so that temporary arrays stay small."""
    rows = max(1, BAND_PX // (pixels.shape[1] * pixels.shape[2]))
    return (pixels[start : start + rows] for start in range(0, len(pixels), rows))
