"""What the colours of an RGB frame are: stains, the tint of one channel, or several channels.

Light that passes through a specimen leaves a bright background, which stains darken: the colours
are data, and networks learn them. Fluorescence leaves a dark background, and its colours are for
display: one channel in a tint is that channel, and several in several tints are several images.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired
from nuclei.imaging.selection import COLOURS, described_channels

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# Pixels that are looked at, in a regular grid.
_LOOKED_AT = 2**16
# A signal is brighter than this share of the brightest pixels.
_SIGNAL = 0.15
# A pixel is of another colour when it differs by more than this share of the brightest.
_OTHER = 0.15
# So much of the signal in another colour is a scale bar, specks or the rims that JPEG makes; more
# is another channel. Where light passes through, stains are in question: less is allowed.
_SPECKS, _SPECKS_ON_BRIGHT = 0.05, 0.02
# And from here on it is worth a warning.
_WORTH_SAYING = 0.005
# The least of red, green and blue, as a share of the most: below, a colour is a tint.
_TINT, _TINT_ON_BRIGHT = 0.8, 0.3
# Light passes through where a quarter of the pixels at most is darker than the first of these
# shares of the brightest; or a tenth darker than the second, and the brightest are pale. All of
# 433 images of stained tissue (BBBC038, TNBC, NuInsSeg, DeepLIIF) keep their colours, as
# benchmarks/intensity.py counts.
_BRIGHT_QUARTER, _BRIGHT_TENTH, _PALE = 0.45, 0.2, 0.33
# Lookup tables of 8 bit have no more colours, and each has a brightness of its own.
_LOOKUP_COLOURS, _LOOKUP_DISTINCT = 256, 0.9
# Pixels whose colours are counted first.
_FEW = 2**12
# So many of them are of another colour than the signal: a scale bar has a few.
_LOOKUP_OTHER = 0.2
# Rows that are looked at, or whose mean is taken, at once.
_ROWS = 64


def is_grey(pixels: NDArray[Any]) -> bool:
    """Whether pixels [H, W, C] have no colour: one channel, or three that are equal everywhere."""
    for top in range(0, len(pixels), _ROWS):  # of all rows at once the comparison takes memory
        rows = pixels[top : top + _ROWS]
        if (rows[:, :, :1] != rows[:, :, 1:]).any():
            return False
    return True


def one_image(pixels: Pixels) -> tuple[Pixels, tuple[str, ...]]:
    """The one image that an RGB frame holds, and sentences about what was decided.

    Args:
        pixels: uint8 or uint16 [H, W, 3].

    Returns:
        [H, W, 3] where colours are data, else grey, [H, W, 1]; C-contiguous.

    Raises:
        ChoiceRequired: several channels of fluorescence, of which the caller has to choose one.
    """
    if is_grey(pixels):
        return _channel(pixels, 0), ()
    seen = _grid(pixels)
    brightness = seen.max(axis=1)
    top = float(np.percentile(brightness, 99.5))
    if top <= 0:
        return pixels, ()
    signal = _is_signal(brightness, top)
    tint = _tint(seen[signal], brightness[signal])
    channel = int(np.argmax(tint))
    tint /= tint[channel]
    others = np.count_nonzero(_is_other_colour(seen, top, tint, channel))
    other = float(others) / max(1, int(np.count_nonzero(signal)))
    bright = _is_bright(seen, brightness, top)
    if not bright and others and _is_lookup_table(seen, top, tint, channel):
        said = (
            "the colours look like a lookup table applied to one channel: the mean of red, green "
            "and blue was segmented; save the grey values themselves"
        )
        return _mean(pixels), (said,)
    least, most_other = (_TINT_ON_BRIGHT, _SPECKS_ON_BRIGHT) if bright else (_TINT, _SPECKS)
    if min(tint) < least and other < most_other:
        return _channel(pixels, channel), (_tinted(channel, other),)
    if bright or other < _SPECKS:
        return pixels, ()
    raise ChoiceRequired(
        f"the image has {described_channels(COLOURS)}, and its colours on a dark background look "
        "like several channels of fluorescence",
        "choose that of the nuclei with `channel`, for example `channel` 'blue'",
        COLOURS,
    )


def _channel(pixels: Pixels, number: int) -> Pixels:
    return cast(Pixels, np.ascontiguousarray(pixels[:, :, number : number + 1]))


def _grid(pixels: Pixels) -> NDArray[np.float32]:
    """Some of the pixels, float32 [N, 3]."""
    step = max(1, int((pixels.shape[0] * pixels.shape[1] / _LOOKED_AT) ** 0.5))
    return np.asarray(pixels[::step, ::step].reshape(-1, 3), np.float32)


def _tint(signal: NDArray[np.float32], brightness: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median colour of a signal, as shares of its brightness: float32 [3].

    The mean where no colour has a majority, whose median is black.
    """
    shares = signal / brightness[:, None]
    median = np.asarray(np.median(shares, axis=0), np.float32)
    return median if median.any() else np.asarray(shares.mean(axis=0), np.float32)


def _is_signal(brightness: NDArray[np.float32], top: float) -> NDArray[np.bool_]:
    lo = min(float(np.percentile(brightness, 1)), 0.99 * top)
    return np.asarray(brightness > lo + _SIGNAL * (top - lo))


def _is_other_colour(
    seen: NDArray[np.float32], top: float, tint: NDArray[np.float32], channel: int
) -> NDArray[np.bool_]:
    expected = seen[:, channel, None] * tint
    return np.asarray(np.abs(seen - expected).max(axis=1) > _OTHER * top)


def _is_bright(seen: NDArray[np.float32], brightness: NDArray[np.float32], top: float) -> bool:
    tenth, quarter, most = np.percentile(brightness, [10, 25, 90])
    if quarter > _BRIGHT_QUARTER * top:
        return True
    brightest = brightness >= most
    pale = float(np.mean(seen[brightest].min(axis=1) / np.maximum(brightness[brightest], 1)))
    return bool(tenth >= _BRIGHT_TENTH * top and pale >= _PALE)


def _is_lookup_table(
    seen: NDArray[np.float32], top: float, tint: NDArray[np.float32], channel: int
) -> bool:
    # As one number each: exact for 16 bit. A matrix product would take more memory for its library
    # than a decoder has for a small frame.
    red, green, blue = seen.T.astype(np.float64)
    numbers = red + 2.0**16 * green + 2.0**32 * blue
    if len(np.unique(numbers[:: len(numbers) // _FEW + 1])) > _LOOKUP_COLOURS:
        return False  # as nearly always, and without sorting all of them
    colours = seen[np.unique(numbers, return_index=True)[1]]
    distinct = len(np.unique(colours.sum(axis=1)))
    other = np.count_nonzero(_is_other_colour(colours, top, tint, channel))
    return bool(
        len(colours) <= _LOOKUP_COLOURS
        and distinct >= _LOOKUP_DISTINCT * len(colours)
        and other >= _LOOKUP_OTHER * len(colours)
    )


def _mean(pixels: Pixels) -> Pixels:
    mean = np.empty((*pixels.shape[:2], 1), pixels.dtype)
    for top in range(0, len(pixels), _ROWS):  # of all rows at once the floats would take more
        rows = slice(top, top + _ROWS)
        mean[rows] = pixels[rows].mean(axis=2, dtype=np.float32, keepdims=True).round()
    return cast(Pixels, mean)


def _tinted(channel: int, other: float) -> str:
    said = (
        f"the frame is one channel shown in a colour; its {COLOURS[channel]} was segmented as grey"
    )
    if other > _WORTH_SAYING:
        said += (
            f", and {other:.1%} of the signal in other colours was left out (a scale bar, another "
            "channel?): choose with `channel`"
        )
    return said
