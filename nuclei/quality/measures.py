"""The measures of `Quality` that one frame and its segmentation give.

`focus` and `signal_to_noise` change neither with the camera's gain nor with its offset, and, but
for rounding, not with the bits of a pixel, as `saturated`; `dynamic_range` has to guess from the
largest value how many bits the camera had. All measures are the same in the mirror image of a
frame, up to half a million pixels; in larger frames, focus and noise are those of some rows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import int32, int64, types, uint8, uint16, void
from numpy.typing import NDArray

from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import Intensity
from nuclei.jit import UINT8_2D, UINT32_2D, kernel
from nuclei.postprocessing.accumulation import Accumulator, Parameters
from nuclei.postprocessing.bands import bands
from nuclei.postprocessing.probability import LEVELS
from nuclei.postprocessing.watershed import WatershedParameters
from nuclei.results.nuclei import Nuclei
from nuclei.results.quality import Quality

Check = Callable[[], None]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# A probability this near the threshold might as well be on its other side.
NEAR = 0.1
# Bits of the sensors of cameras, which are stored at the low or at the high end of 16. Where only
# small values of 16 bit occur, the frame is dark: cameras with fewer bits than these are rare.
_SENSOR_BITS = (8, 10, 12, 14, 16)
_LEAST_BITS = 12
# Rows of large frames are left out so that focus and noise are those of about this many pixels.
_PIXELS = 2**18
# Larger responses to noise count as this.
_NOISIEST = 2**18
# Immerkaer's mask multiplies the standard deviation of the noise by this, and the median of the
# absolute values of a normal distribution is this part of its standard deviation.
_MASK_GAIN, _MEDIAN_OF_NORMAL = 6.0, 0.6745
# Neighbouring slopes of a frame of noise are this alike in one of thousands, standard errors; most
# pairs are counted twice.
_BEYOND_CHANCE = 6.0
# What the nuclei's pixels are counted by.
_BACKGROUND, _INNER, _BOUNDARY = range(3)
# What `_look` sums up.
_SUMS = ("pairs", "slopes", "slope_products", "bend_products", "heard")


def measures(
    frame: Frame,
    intensity: Intensity,
    labels: NDArray[np.uint32],
    nuclei: Nuclei,
    answers: Accumulator,
    parameters: Parameters,
    training_pixel_size_um: float | None,
    check: Check = lambda: None,
) -> Quality:
    """Measure the quality of a frame and its segmentation.

    Args:
        frame: pixels uint8 or uint16 [H, W, C].
        intensity: the range that the frame was segmented with, in units of its pixels.
        labels: uint32 [H, W], 0 is background.
        nuclei: of these labels.
        answers: of the model to all tiles of the frame.
        parameters: of the method that made nuclei of the answers.
        training_pixel_size_um: of the training images; None when unknown.
        check: called every few megapixels; an exception that it raises ends the work.

    Returns:
        All but `previous_agreement` and `estimated_score`, which need more than one frame.
    """
    pixels = _looked_at(frame.pixels, check)
    certainty = _certainty(labels, answers.foreground, check)
    full = _largest_value(frame.pixels)
    lo, hi = np.clip(intensity.range.astype(np.float64), 0, full).tolist()
    area_px = nuclei.area_px.astype(np.float64)
    return Quality(
        nuclei_per_mm2=_density(len(nuclei), frame),
        coverage=float(area_px.sum()) / labels.size,
        median_area_px=float(np.median(area_px)) if len(nuclei) else None,
        area_spread=_spread(area_px),
        mean_probability=None if certainty is None else certainty.mean_probability(),
        boundary_entropy=None if certainty is None else certainty.boundary_entropy(),
        near_threshold=_near_threshold(certainty, parameters),
        tta_disagreement=_mean_in_nuclei(labels, answers.disagreement, check),
        edge_share=_edge_share(nuclei, labels.shape),
        focus=pixels.focus(),
        saturated=_saturated(frame.pixels, check),
        dynamic_range=(hi - lo) / full,
        signal_to_noise=_signal_to_noise(hi - lo, pixels.noise() / frame.pixels.shape[2]),
        pixel_size_ratio=_pixel_size_ratio(frame, training_pixel_size_um),
    )


def detail(frame: Frame) -> float:
    """Variance of the Laplacian without the noise, in squared units of the frame, at least 0.

    Compares slices of one stack, which have the same gain; `Quality.focus` compares any frames.
    """
    sums = _looked_at(frame.pixels, lambda: None).sums
    return max(0.0, sums["bend_products"] / max(1, sums["pairs"]) * frame.scale.step**2)


def _density(count: int, frame: Frame) -> float | None:
    """Nuclei for each square millimetre."""
    if frame.pixel_size_um is None:
        return None
    height, width = frame.pixels.shape[:2]
    return float(count * 1e6 / (height * width * math.prod(frame.pixel_size_um)))


def _spread(area_px: NDArray[np.float64]) -> float | None:
    """The quartile range over the median, as robust as it: one clump hardly changes either."""
    if not len(area_px):
        return None
    lower, median, upper = np.percentile(area_px, (25, 50, 75)).tolist()
    return float((upper - lower) / median)


def _edge_share(nuclei: Nuclei, shape: tuple[int, ...]) -> float | None:
    if not len(nuclei):
        return None
    touching = (nuclei.box_px[:, :2] == 0) | (nuclei.box_px[:, 2:] == shape[:2])
    return float(touching.any(axis=1).mean())


def _pixel_size_ratio(frame: Frame, training_pixel_size_um: float | None) -> float | None:
    """Of the sides of squares of the same area, where pixels are no squares."""
    if frame.pixel_size_um is None or training_pixel_size_um is None:
        return None
    return math.sqrt(math.prod(frame.pixel_size_um)) / training_pixel_size_um


def _signal_to_noise(signal: float, noise: float) -> float | None:
    """A frame of nothing but normal noise has 5.7, what lies between its percentiles."""
    return signal / noise if noise else None


@dataclass(frozen=True, eq=False)
class _Certainty:
    """How sure the model is of a frame.

    Attributes:
        counts: int64 [3, 256], how often each foreground probability, as a byte, occurs in the
            background, in nuclei, and at the outermost pixels of nuclei.
    """

    counts: NDArray[np.int64]

    def mean_probability(self) -> float | None:
        in_nuclei = self.counts[_INNER] + self.counts[_BOUNDARY]
        return _mean(np.arange(LEVELS + 1) / LEVELS, in_nuclei)

    def boundary_entropy(self) -> float | None:
        """Of a coin that falls with the probability (Shannon 1948): 1 bit where it is 0.5."""
        sure = np.arange(LEVELS + 1) / LEVELS
        either = np.stack([sure, 1 - sure])
        bits = -either * np.log2(either, out=np.zeros_like(either), where=either > 0)
        return _mean(bits.sum(axis=0), self.counts[_BOUNDARY])

    def near(self, threshold: float) -> float | None:
        """Of the pixels in nuclei or near the threshold, the share of those near it.

        Bounded, and not the smaller the emptier the frame.
        """
        # A byte of exactly this distance is near, whatever the threshold's last digit.
        distance = np.abs(np.arange(LEVELS + 1) / LEVELS - threshold)
        near = distance <= NEAR + 1e-9
        in_nuclei = self.counts[_INNER] + self.counts[_BOUNDARY]
        doubtful = int(self.counts[:, near].sum())
        of = doubtful + int(in_nuclei[~near].sum())
        return doubtful / of if of else None


def _certainty(
    labels: NDArray[np.uint32], foreground: NDArray[np.uint8] | None, check: Check
) -> _Certainty | None:
    if foreground is None:
        return None
    counts = np.zeros((3, LEVELS + 1), np.int64)
    for rows in bands(*labels.shape):
        check()
        _count(labels, foreground, rows.start, rows.stop, counts)
    return _Certainty(counts)


def _near_threshold(certainty: _Certainty | None, parameters: Parameters) -> float | None:
    if certainty is None or not isinstance(parameters, WatershedParameters):
        return None
    return certainty.near(parameters.foreground_threshold)


def _mean(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float | None:
    total = int(counts.sum())
    return float(values @ counts) / total if total else None


def _mean_in_nuclei(
    labels: NDArray[np.uint32], values: NDArray[np.uint8] | None, check: Check
) -> float | None:
    """The mean of a map, 255 is 1."""
    if values is None:
        return None
    total = area = 0
    for rows in bands(*labels.shape):
        check()
        band = slice(rows.start, rows.stop)
        in_nuclei = values[band][labels[band] > 0]
        total += int(in_nuclei.sum(dtype=np.int64))
        area += len(in_nuclei)
    return total / LEVELS / area if area else None


def _largest_value(pixels: Pixels) -> int:
    """The largest value of the sensor, as far as the pixels tell: of 8, 12, 14 or 16 bit."""
    if pixels.dtype == np.uint8:
        return int(np.iinfo(np.uint8).max)
    bits = max(_LEAST_BITS, int(pixels.max()).bit_length())
    return int(min(2**each - 1 for each in _SENSOR_BITS if each >= bits))


def _saturated(pixels: Pixels, check: Check) -> float:
    """The share of pixels of which a channel has the largest value of a sensor.

    0 where the largest value of the frame is none.
    """
    rows = _rows(pixels)
    largest, all_bits = int(rows.max()), 8 * rows.itemsize
    ends = {
        (2**bits - 1) << shift
        for bits in _SENSOR_BITS
        if bits <= all_bits
        for shift in (0, all_bits - bits)
    }
    if largest not in ends:
        return 0.0
    height, width, channels = pixels.shape
    count = 0
    for band in bands(height, width * channels):
        check()
        count += _count_value(rows[band.start : band.stop], channels, largest)
    return float(count / (height * width))


def _rows(pixels: Pixels) -> NDArray[Any]:
    """The same as [H, W * C]."""
    return np.ascontiguousarray(pixels.reshape(len(pixels), -1))


@dataclass(frozen=True, eq=False)
class _Looks:
    """What one look at the pixels gives, the channels of each summed up.

    Attributes:
        sums: whole numbers by the names of `_SUMS`: the number of pairs of neighbouring pixels; the
            squares of the slopes of both; the products of the slopes of the two; the products of
            their Laplacians; the number of responses above 0.
        responses: int64 [_NOISIEST], how often the absolute response to Immerkaer's mask has each
            value.
    """

    sums: dict[str, int]
    responses: NDArray[np.int64]

    def focus(self) -> float | None:
        """Variance of the Laplacian over that of the slopes, both without noise; pixels**-2.

        The variance of the Laplacian is the classic measure of focus (Pech-Pacheco et al., Diatom
        autofocusing in brightfield microscopy, ICPR 2000). Divided by that of the slopes it depends
        neither on gain nor on offset, and hardly on how many and how large the nuclei are: it is
        the mean square of the spatial frequency, weighted by the slopes. (Divided by the variance
        of the values it tells a blur of 1.5 pixels in 33 % of the images of BBBC038, so in 82 %.)

        Noise would add to both. As the noise of one pixel is independent of that of another, it is
        absent from the covariance of neighbours, on which Vollath's measure of focus rests (J.
        Microscopy 147, 1987): here it takes the place of each variance. The Laplacian is the
        diagonal one, (the four diagonal neighbours - 4 times the pixel) / 2, and slopes are half
        the differences of the pixels on either side: those of two neighbours share no pixel. So no
        model of the noise is needed, which in a microscope grows with brightness. The means, which
        are those of the frame's edges, count as 0.

        None where neighbours are not more alike than by chance: there is nothing but noise, or
        nothing at all.
        """
        pairs, alike = self.sums["pairs"], self.sums["slope_products"]
        if not alike > _BEYOND_CHANCE * self.sums["slopes"] / 2 / math.sqrt(max(1, pairs)):
            return None
        return max(0.0, self.sums["bend_products"] / alike)

    def noise(self) -> float:
        """Standard deviation of the noise of a pixel, all channels summed up; 0 if there is none.

        By the mask of Immerkaer (Fast noise variance estimation, Computer Vision and Image
        Understanding 64, 1996), which is blind to slopes and to edges along the axes. The median of
        its responses takes the place of their mean, so that other edges do not count as noise.
        Responses of 0 are left out: there, values were cut off or are of too few bits.
        """
        heard = self.sums["heard"]
        if not heard:
            return 0.0
        median: int = _reached(self.responses, (heard + 1) // 2)
        return median / (_MASK_GAIN * _MEDIAN_OF_NORMAL)


def _looked_at(pixels: Pixels, check: Check) -> _Looks:
    height, width, channels = pixels.shape
    step = max(1, height * width // _PIXELS)
    sums, responses = np.zeros(len(_SUMS), np.int64), np.zeros(_NOISIEST, np.int64)
    check()
    _look(_rows(pixels), channels, step, sums, responses)
    return _Looks(dict(zip(_SUMS, sums.tolist(), strict=True)), responses)


def _rows_of(value: Any) -> Any:
    return types.Array(value, 2, "C", readonly=True)


def _looking(value: Any) -> Any:
    """Signature of `_look` for pixels of one type."""
    return void(_rows_of(value), int64, int64, int64[::1], int64[::1])


def _counting_value(value: Any) -> Any:
    """Signature of `_count_value` for pixels of one type."""
    return int64(_rows_of(value), int64, int64)


@kernel(void(UINT32_2D, UINT8_2D, int64, int64, int64[:, ::1]))
def _count(
    labels: NDArray[np.uint32],
    foreground: NDArray[np.uint8],
    start: int,
    stop: int,
    counts: NDArray[np.int64],
) -> None:
    """Count the probabilities of the rows from start to stop, [H, W], as `_Certainty` says.

    A pixel of a nucleus is one of its outermost where one of its four neighbours has another label.
    """
    height, width = labels.shape
    for y in range(start, stop):
        for x in range(width):
            own = labels[y, x]
            kind = _BACKGROUND
            if own:
                outermost = (
                    (y > 0 and labels[y - 1, x] != own)
                    or (y + 1 < height and labels[y + 1, x] != own)
                    or (x > 0 and labels[y, x - 1] != own)
                    or (x + 1 < width and labels[y, x + 1] != own)
                )
                kind = _BOUNDARY if outermost else _INNER
            counts[kind, foreground[y, x]] += 1


@kernel(_counting_value(uint8), _counting_value(uint16))
def _count_value(rows: NDArray[Any], channels: int, value: int) -> int:
    """The number of pixels of which a channel has this value, [H, W * C]."""
    height, length = rows.shape
    count = 0
    for y in range(height):
        for x in range(0, length, channels):
            found = False
            for channel in range(channels):
                found |= rows[y, x + channel] == value
            count += found
    return count


@kernel(_looking(uint8), _looking(uint16))
def _look(
    rows: NDArray[Any],
    channels: int,
    step: int,
    sums: NDArray[np.int64],
    responses: NDArray[np.int64],
) -> None:
    """Fill `_Looks` from two rows at every `step`-th, [H, W * C].

    Pairs are side by side in both rows, and one above the other, which count twice: so each
    direction weighs as much as the other, and a frame as much as its mirror image.
    """
    height, width = rows.shape[0], rows.shape[1] // channels
    values, response = np.empty((4, width), np.int32), np.empty(width, np.int32)
    # Of two rows: the slopes along x and along y, and the Laplacian, each doubled.
    along_x, along_y = np.empty((2, width), np.int32), np.empty((2, width), np.int32)
    bent = np.empty((2, width), np.int32)
    pairs, slopes, slope_products, bend_products, heard = 0, 0, 0, 0, 0
    for top in range(0, height - 3, step):
        for row in range(4):
            for x in range(width):
                value = int32(0)
                for channel in range(channels):
                    value += rows[top + row, x * channels + channel]
                values[row, x] = value
        for row in range(2):
            above, own, below = values[row], values[row + 1], values[row + 2]
            for x in range(1, width - 1):
                diagonal = above[x - 1] + above[x + 1] + below[x - 1] + below[x + 1]
                beside = above[x] + below[x] + own[x - 1] + own[x + 1]
                along_x[row, x], along_y[row, x] = own[x + 1] - own[x - 1], below[x] - above[x]
                bent[row, x] = diagonal - 4 * own[x]
                response[x] = abs(diagonal - 2 * beside + 4 * own[x])
            for x in range(1, width - 1):
                responses[min(response[x], len(responses) - 1)] += 1
                heard += response[x] > 0
            for x in range(1, width - 2):
                right, next_right = int64(along_x[row, x]), int64(along_x[row, x + 1])
                down, next_down = int64(along_y[row, x]), int64(along_y[row, x + 1])
                slopes += right * right + down * down
                slopes += next_right * next_right + next_down * next_down
                slope_products += right * next_right + down * next_down
                bend_products += int64(bent[row, x]) * int64(bent[row, x + 1])
            pairs += max(0, width - 3)
        for x in range(1, width - 1):
            right, next_right = int64(along_x[0, x]), int64(along_x[1, x])
            down, next_down = int64(along_y[0, x]), int64(along_y[1, x])
            slopes += 2 * (right * right + down * down)
            slopes += 2 * (next_right * next_right + next_down * next_down)
            slope_products += 2 * (right * next_right + down * next_down)
            bend_products += 2 * int64(bent[0, x]) * int64(bent[1, x])
        pairs += 2 * max(0, width - 2)
    sums[0], sums[1], sums[2] = pairs, slopes, slope_products
    sums[3], sums[4] = bend_products, heard


@kernel(int64(int64[::1], int64))
def _reached(counts: NDArray[np.int64], number: int) -> int:
    """The lowest value above 0 at or below which, from 1 on, so many were counted."""
    below = int64(0)
    for value in range(1, len(counts)):
        below += counts[value]
        if below >= number:
            return value
    return len(counts) - 1
