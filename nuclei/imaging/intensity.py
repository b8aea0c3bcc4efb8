"""The intensity range of a frame: which pixel values become 0 and 1 for the network.

It is that of percentiles, of what is left without hot pixels and without debris: networks find the
same nuclei under salt noise or beside a bright fibre, but not once these have made them black.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float32, float64, int32, int64, types, uint8, uint16, void
from numpy.typing import NDArray

from nuclei.errors import InvalidOption
from nuclei.imaging.images import Frame
from nuclei.imaging.scaling import AS_STORED, Scale
from nuclei.jit import inlined, kernel

LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.9

# Rows are left out so that about this many values are counted: enough for the percentiles.
_VALUES = 2**18
# The frame is cut into so many cells a side; a cell is as bright as the brightest thing in it.
_CELLS = 16
# A hot pixel is brighter than its neighbours by more than this share of its height above the black
# level, and by more than this multiple of the noise.
_HOT_SHARE, _HOT_NOISE = 0.5, 8
# Hot pixels are looked for among the brightest: more of them are noise.
_NEVER_HOT_PERCENTILE = 98
# Noise is measured at every so many values of a row, and cells are looked through at these: primes,
# so that all channels are.
_NOISE_STEP, _CELL_STEP = 7, 2
# Larger differences count as this: a frame with so much noise has no other range.
_NOISIEST = 2**13
# With these, six of 25 images of coelho2009, which has real debris, get another range; of 91 of
# BBBC039, BBBC050, kromp and aitslab none, and none of the 62 held-out ones. Of 12 frames with
# debris added, 5 to 50 times as bright, all keep their range within 30 %, with a fibre ten or
# eleven (benchmarks/intensity.py).
# A cell holds a signal when what is in it differs by more than this multiple of the noise.
_SIGNAL_NOISE = 30
# Debris is brighter than so many times the signal, which is that of this quantile of its cells ...
_DEBRIS_TIMES, _SIGNAL_QUANTILE = 4, 0.75
# ... and in at most this share of them; fewer cells than these tell nothing.
_DEBRIS_SHARE, _FEWEST_CELLS = 0.25, 12
# A range that hot pixels widen by more than this is worth a warning.
_WORTH_SAYING = 1.2


@dataclass(frozen=True, eq=False)
class Intensity:
    """The intensity range of a frame.

    Attributes:
        range: float32 [2], lo and hi, the values that become 0 and 1, lo below hi.
        warnings: what was left out of it, in sentences.
    """

    range: NDArray[np.float32]
    warnings: tuple[str, ...] = ()


def intensity_of(frame: Frame) -> Intensity:
    """The range that a frame is segmented with: that of its caller, else `intensity_range`.

    Raises:
        InvalidOption: float32 cannot hold that of its caller, or not tell its two ends apart.
    """
    if frame.intensity_range is None:
        return intensity_range(frame.pixels, frame.scale)
    asked = [frame.scale.pixel(value) for value in frame.intensity_range]
    with np.errstate(over="ignore"):
        lo, hi = ends = np.array(asked, np.float32)
        width = hi - lo
    if not (np.isfinite(ends).all() and 0 < width < np.inf):
        raise InvalidOption(
            f"intensity_range is {tuple(frame.intensity_range)}; expected two numbers that "
            "float32 holds and tells apart, such as two values of the frame"
        )
    return Intensity(ends)


def intensity_range(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], scale: Scale = AS_STORED
) -> Intensity:
    """The range of a frame: its 0.5 and 99.9 percentiles, over all channels together.

    Left out are hot pixels (single ones far brighter than their neighbours) and debris (what is
    more than 4 times as bright as the signal in most places of the frame). Channels share one range
    so that the colour of stained tissue is kept. Where a frame has more than 2**19 values, whole
    rows are left out.

    Args:
        pixels: uint8 or uint16 [H, W, C] or [H, W], not empty; C-contiguous is fastest.
        scale: from the pixels to the values that warnings name.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    rows = np.ascontiguousarray(pixels.reshape(len(pixels), -1))
    seen = _Seen.of(rows, channels)
    lo, bright, plain = (
        seen.percentile(percent)
        for percent in (LOW_PERCENTILE, _NEVER_HOT_PERCENTILE, HIGH_PERCENTILE)
    )
    noise = seen.noise(lo, bright)
    _uncount_hot(rows, channels, seen.step, seen.counts, lo, bright, _HOT_NOISE * noise)
    hi = cool = seen.percentile(HIGH_PERCENTILE)
    warnings = []
    if plain - lo > _WORTH_SAYING * (cool - lo):
        warnings.append(
            f"hot pixels: single pixels brighter than {scale.value(float(cool)):g} were left out "
            "of the intensity range"
        )
    debris = seen.brighter_than_signal(lo, noise)
    if debris is not None and debris < hi:
        seen.counts[debris + 1 :] = 0
        hi = seen.percentile(HIGH_PERCENTILE)
        warnings.append(
            f"debris: the few places brighter than {scale.value(float(debris)):g}, "
            f"{_DEBRIS_TIMES} times the signal of the others, were left out of the intensity "
            "range; give one if these are the nuclei"
        )
    return Intensity(np.array([lo, max(hi, lo + 1)], np.float32), tuple(warnings))


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one look over the pixels gives.

    Attributes:
        step: the distance of the rows that were looked at.
        counts: int32 [values], how often each value occurs.
        brightest, darkest: float32 [cells, cells], the second highest and the second lowest value
            of a pixel and its four neighbours, at their most extreme in each cell.
        steps: int32 [values], how often a pixel differs by so much from the mean of the pixels to
            its left and right, doubled.
    """

    step: int
    counts: NDArray[np.int32]
    brightest: NDArray[np.float32]
    darkest: NDArray[np.float32]
    steps: NDArray[np.int32]

    @classmethod
    def of(cls, rows: NDArray[Any], channels: int) -> "_Seen":
        """Look at rows [H, W * C]."""
        values = np.iinfo(rows.dtype).max + 1
        seen = cls(
            max(1, rows.size // _VALUES),
            np.zeros(values, np.int32),
            np.full((_CELLS, _CELLS), -1, np.float32),
            np.full((_CELLS, _CELLS), values, np.float32),
            np.zeros(min(2 * values, _NOISIEST), np.int32),
        )
        _look(rows, channels, seen.step, seen.counts, seen.brightest, seen.darkest, seen.steps)
        return seen

    def percentile(self, percent: float) -> int:
        return int(_quantile(self.counts, percent / 100))

    def noise(self, lo: int, bright: int) -> float:
        """Standard deviation of the noise of a pixel; at least half the distance of two values.

        The distance is that of values between `lo` and `bright`: 8 bit may be stored as 16.
        """
        occurring = np.count_nonzero(self.counts[lo : bright + 1])
        distance = (bright - lo) / (occurring - 1) if occurring > 1 else 1
        # Of normal noise the median difference is 0.6745 standard deviations, and the difference
        # from the mean of two has sqrt(1.5) times the deviation of one.
        median = float(_quantile(self.steps, 0.5)) / 2
        return float(max(distance / 2, median / (0.6745 * 1.5**0.5)))

    def brighter_than_signal(self, lo: int, noise: float) -> int | None:
        """The value above which a few places are debris; None when there are none."""
        looked_at = self.brightest >= 0
        signal = looked_at & (self.brightest - self.darkest > _SIGNAL_NOISE * noise)
        cells = np.count_nonzero(signal)
        if cells < _FEWEST_CELLS:
            return None
        typical = float(np.quantile(self.brightest[signal], _SIGNAL_QUANTILE))
        limit = int(lo + _DEBRIS_TIMES * (typical - lo))
        above = np.count_nonzero(self.brightest > limit)
        return limit if 0 < above <= _DEBRIS_SHARE * cells else None


def _rows_of(value: Any) -> Any:
    return types.Array(value, 2, "C", readonly=True)


def _looking(value: Any) -> Any:
    """Signature of `_look` for pixels of one type."""
    cells = float32[:, ::1]
    return void(_rows_of(value), int64, int64, int32[::1], cells, cells, int32[::1])


def _uncounting(value: Any) -> Any:
    """Signature of `_uncount_hot` for pixels of one type."""
    return void(_rows_of(value), int64, int64, int32[::1], int64, int64, float64)


@kernel(int64(int32[::1], float64))
def _quantile(counts: NDArray[np.int32], share: float) -> int:
    """The lowest value at or below which lies this share of what was counted."""
    total = int64(0)
    for value in range(len(counts)):
        total += counts[value]
    below, reached = int64(0), share * total
    for value in range(len(counts)):
        below += counts[value]
        if below >= reached:
            return value
    return len(counts) - 1


@inlined
def _seconds(rows: NDArray[Any], channels: int, y: int, x: int) -> tuple[int, int]:
    """The second lowest and the second highest of the four neighbours of a value in its channel.

    At an edge the value itself stands for the neighbour that is missing.
    """
    height, width = rows.shape
    left = x - channels if x >= channels else x
    right = x + channels if x + channels < width else x
    a, b = int64(rows[max(y - 1, 0), x]), int64(rows[min(y + 1, height - 1), x])
    d, e = int64(rows[y, left]), int64(rows[y, right])
    inner = min(max(a, b), max(d, e)), max(min(a, b), min(d, e))
    return min(inner), max(inner)


@kernel(_looking(uint8), _looking(uint16))
def _look(
    rows: NDArray[Any],
    channels: int,
    step: int,
    counts: NDArray[np.int32],
    brightest: NDArray[np.float32],
    darkest: NDArray[np.float32],
    steps: NDArray[np.int32],
) -> None:
    """Fill the arrays of `_Seen` from every `step`-th row, [H, W * C]."""
    height, width = rows.shape
    cells = brightest.shape[0]
    for y in range(0, height, step):
        for x in range(width):
            counts[rows[y, x]] += 1
        for x in range(channels, width - channels, _NOISE_STEP):
            neighbours = int64(rows[y, x - channels]) + int64(rows[y, x + channels])
            steps[min(abs(2 * int64(rows[y, x]) - neighbours), len(steps) - 1)] += 1
        cell_y = y * cells // height
        for cell_x in range(cells):
            most, least = int64(brightest[cell_y, cell_x]), int64(darkest[cell_y, cell_x])
            for x in range(cell_x * width // cells, (cell_x + 1) * width // cells, _CELL_STEP):
                value = int64(rows[y, x])
                if value > most or value < least:
                    second_lowest, second_highest = _seconds(rows, channels, y, x)
                    most = max(most, min(value, second_highest))
                    least = min(least, max(value, second_lowest))
            brightest[cell_y, cell_x], darkest[cell_y, cell_x] = most, least


@kernel(_uncounting(uint8), _uncounting(uint16))
def _uncount_hot(
    rows: NDArray[Any],
    channels: int,
    step: int,
    counts: NDArray[np.int32],
    lo: int,
    bright: int,
    least_step: float,
) -> None:
    """Take the hot pixels among those brighter than `bright` out of the counts."""
    height, width = rows.shape
    for y in range(0, height, step):
        for x in range(width):
            value = int64(rows[y, x])
            if value > bright:
                _, second_highest = _seconds(rows, channels, y, x)
                if value - second_highest > max(least_step, _HOT_SHARE * (value - lo)):
                    counts[value] -= 1
