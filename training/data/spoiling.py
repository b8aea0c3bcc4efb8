"""Images spoiled as microscopes spoil them, so that bad frames with a known truth are seen, too."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Sample

# A spoiler takes an image, how badly to spoil it (0 hardly, 1 thoroughly), and what is random.
Spoiler = Callable[[Sample, float, np.random.Generator], Sample]
Floats = NDArray[np.float32]

# Radius of the disk that a point out of focus becomes, pixels.
DEFOCUS_PX = (1.5, 6.0)
# Share of the light that is left, and the noise of reading a pixel, of 255.
UNDEREXPOSED, READ_NOISE = (0.3, 0.04), 1.0
# The image is so many times as bright as the camera takes.
OVEREXPOSED = (1.5, 5.0)
# Standard deviation, of the range between the 0.5 and 99.9 percentiles.
NOISE = (0.06, 0.35)
# The factor of half and double magnification at full strength.
MAGNIFICATION = 2.0
HUE_DEGREES = (30, 120)
STAIN = "stained otherwise"
# Specks, and how often as far from the background as the nuclei are.
DEBRIS_COUNT, DEBRIS_CONTRAST = (3, 25), (1.0, 3.0)


def defocused(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """Blurred by a disk, as a wide aperture does; the noise of the camera stays."""
    radius = _between(DEFOCUS_PX, strength)
    pixels = sample.pixels.astype(np.float32)
    noise = _noise_of(pixels)
    return _with(sample, _add_noise(_columns(cv2.filter2D(pixels, -1, disk(radius))), noise, rng))


def underexposed(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """With less light, so that the noise of the camera and its steps matter."""
    white = _white(sample.pixels)
    dark = sample.pixels.astype(np.float32) * _between(UNDEREXPOSED, strength)
    return _with(sample, _add_noise(dark, READ_NOISE * white / 255, rng))


def overexposed(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """With so much light that the brightest places are all the same."""
    del rng
    factor = _between(OVEREXPOSED, strength) * _white(sample.pixels)
    brightest = max(float(np.percentile(sample.pixels, 99.5)), 1.0)
    return _with(sample, sample.pixels.astype(np.float32) * (factor / brightest))


def noisy(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """With noise of a normal distribution."""
    lo, hi = np.percentile(sample.pixels, (0.5, 99.9))
    noise = _between(NOISE, strength) * float(hi - lo)
    return _with(sample, _add_noise(sample.pixels.astype(np.float32), noise, rng))


def half_magnified(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """Through an objective of less magnification: the same field on fewer pixels."""
    del rng
    return _scaled(sample, MAGNIFICATION**-strength)


def double_magnified(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """Through an objective of more magnification: the middle of the field on all pixels."""
    del rng
    scaled = _scaled(sample, MAGNIFICATION**strength)
    (height, width), (tall, wide) = sample.labels.shape, scaled.labels.shape
    top, left = (tall - height) // 2, (wide - width) // 2
    part = slice(top, top + height), slice(left, left + width)
    return replace(sample, pixels=scaled.pixels[part], labels=scaled.labels[part])


def inverted(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """Black for white, whatever the strength."""
    del strength, rng
    return _with(sample, _white(sample.pixels) - sample.pixels.astype(np.float32))


def stained_otherwise(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """With other hues; a grey image stays as it is."""
    if sample.pixels.shape[2] == 1:
        return sample
    white = _white(sample.pixels)
    hsv = cv2.cvtColor(sample.pixels.astype(np.float32) / white, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.choice((-1, 1)) * _between(HUE_DEGREES, strength)) % 360
    return _with(sample, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * white)


def half_empty(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """With nothing but background in its left half, whatever the strength."""
    del strength
    pixels, labels = sample.pixels.astype(np.float32), sample.labels.copy()
    half = labels.shape[1] // 2
    noise = _noise_of(pixels)
    pixels[:, :half] = _background(sample)
    pixels[:, :half] = _add_noise(pixels[:, :half], noise, rng)
    labels[:, :half] = 0
    return _with(replace(sample, labels=labels), pixels)


def with_debris(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """With specks and fibres that are no nuclei."""
    height, width = sample.labels.shape
    pixels = np.ascontiguousarray(sample.pixels.astype(np.float32))
    background = _background(sample)
    signal = _signal(sample) - background
    scale = (height * width) ** 0.5
    for _ in range(round(_between(DEBRIS_COUNT, strength))):
        value = (background + rng.uniform(*DEBRIS_CONTRAST) * signal).tolist()
        centre = int(rng.integers(width)), int(rng.integers(height))
        if rng.random() < 0.3:
            end = int(rng.integers(width)), int(rng.integers(height))
            cv2.line(pixels, centre, end, value, max(1, round(scale * rng.uniform(0.002, 0.008))))
        else:
            axes = tuple(max(1, round(scale * each)) for each in rng.uniform(0.005, 0.04, 2))
            cv2.ellipse(pixels, centre, axes, rng.uniform(0, 180), 0, 360, value, -1)
    return _with(sample, pixels)


SPOILERS: Mapping[str, Spoiler] = {
    "defocused": defocused,
    "underexposed": underexposed,
    "overexposed": overexposed,
    "noisy": noisy,
    "half magnification": half_magnified,
    "double magnification": double_magnified,
    "inverted": inverted,
    STAIN: stained_otherwise,
    "half empty": half_empty,
    "debris": with_debris,
}


def spoiled(sample: Sample, rng: np.random.Generator) -> Sample:
    """A copy that is spoiled in one way, by a random strength."""
    names = [name for name in SPOILERS if name != STAIN or sample.pixels.shape[2] == 3]
    return SPOILERS[rng.choice(names)](sample, float(rng.random()), rng)


def _between(ends: tuple[float, float], strength: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * strength


def _with(sample: Sample, pixels: Floats) -> Sample:
    """The image with other pixels, which its camera would have given."""
    of_camera = np.clip(np.rint(pixels), 0, _white(sample.pixels))
    if sample.pixels.dtype == np.uint8:
        return replace(sample, pixels=of_camera.astype(np.uint8))
    return replace(sample, pixels=of_camera.astype(np.uint16))


def _white(pixels: NDArray[Any]) -> float:
    """The largest value of the camera: of 8 bit, or of the fewest of 10, 12, 14 and 16."""
    if pixels.dtype == np.uint8:
        return 255.0
    return min(2.0**bits - 1 for bits in (10, 12, 14, 16) if int(pixels.max()) < 2**bits)


def _columns(pixels: NDArray[Any]) -> NDArray[Any]:
    """With the axis of channels, which OpenCV drops where there is one."""
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _add_noise(pixels: Floats, deviation: float, rng: np.random.Generator) -> Floats:
    return pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(deviation)


def _noise_of(pixels: Floats) -> float:
    """Standard deviation of the noise, from differences of neighbours (median)."""
    steps = np.abs(pixels[:, 2:] + pixels[:, :-2] - 2 * pixels[:, 1:-1])
    return float(np.median(steps)) / (0.6745 * 6**0.5)


def disk(radius: float) -> Floats:
    """What a point out of focus becomes: float32 [S, S], of sum 1, smooth at its edge."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return np.asarray(disk / disk.sum(), np.float32)


def _scaled(sample: Sample, factor: float) -> Sample:
    height, width = sample.labels.shape
    size = max(32, round(width * factor)), max(32, round(height * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    pixels = _columns(cv2.resize(sample.pixels, size, interpolation=how))
    labels = cv2.resize(sample.labels, size, interpolation=cv2.INTER_NEAREST)
    return replace(sample, pixels=pixels, labels=labels.astype(np.uint16, copy=False))


def _background(sample: Sample) -> Floats:
    """Median outside of nuclei, by channel."""
    return _median(sample, sample.labels == 0)


def _signal(sample: Sample) -> Floats:
    """Median in nuclei, by channel."""
    return _median(sample, sample.labels > 0)


def _median(sample: Sample, inside: NDArray[np.bool_]) -> Floats:
    """Of the pixels inside; of all where there are none."""
    pixels = (
        sample.pixels[inside] if inside.any() else sample.pixels.reshape(-1, sample.pixels.shape[2])
    )
    return np.asarray(np.median(pixels, axis=0), np.float32)
