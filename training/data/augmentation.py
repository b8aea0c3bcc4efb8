"""Random crops and the augmentations of microscopy: geometry, intensity, optics, stain."""

import math
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.intensity import intensity_range
from training.data.spoiling import disk
from training.data.stains import Stains, density_of, immunostained, paled, restained
from training.schedule import Augmentation

ELASTIC_GRID_PX = 64
# Radius of the disk that a point out of focus becomes, pixels.
DEFOCUS_PX = (1.0, 4.0)
JPEG_QUALITY = (30, 90)
# What a dim nucleus keeps of its contrast to the background, and the share of nuclei that are dim.
DIM_CONTRAST = (0.15, 0.7)
DIM_SHARE = (0.1, 0.6)
# How bright the nuclei of another crop are beside those that they are added to.
CROWD_BRIGHTNESS = (0.4, 1.0)
# The share of a nucleus below which what others leave of it is not outlined.
LEAST_VISIBLE = 0.3

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def random_crop(
    pixels: Pixels,
    labels: NDArray[np.uint16],
    size: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
    stains: tuple[Stains, Stains] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """One augmented training crop.

    Args:
        pixels: uint8 or uint16 [H, W, C], C is 1 or 3.
        labels: uint16 [H, W].
        size: side of the crop, pixels.
        augmentation: how it is changed.
        rng: draws the changes.
        stains: of the image, and of the one whose stains it may get; None where either has none.

    Returns:
        image float32 [size, size, 3] in [0, 1], and labels uint16 [size, size].
    """
    crop, cut = _sampled(pixels, labels, size, augmentation, rng)
    of = crop if rng.random() < augmentation.own_range else pixels
    lo, hi = (float(end) for end in intensity_range(of).range)
    lo_shift, hi_shift = (rng.normal(0, augmentation.range_spread, 2) * (hi - lo)).tolist()
    lo, hi = lo + lo_shift, max(hi + hi_shift, lo + lo_shift + 1)
    image = np.clip((crop.astype(np.float32) - lo) / (hi - lo), 0, 1)
    if image.shape[2] == 1 and rng.random() < augmentation.crowd:
        crop, others = _sampled(pixels, labels, size, augmentation, rng)
        image, cut = _crowded(image, cut, (crop.astype(np.float32) - lo) / (hi - lo), others, rng)
    if image.shape[2] == 1 and rng.random() < augmentation.dim:
        background = _background(image, cut)
        image = background + (image - background) * _dimmed(cut, rng)[..., None]
    if stains is not None:
        own, other = stains
        if rng.random() < augmentation.restain:
            image, own = restained(image, own, other), other
        if rng.random() < augmentation.dim:
            image = paled(image, _dimmed(cut, rng), own)
        if rng.random() < augmentation.immunostain:
            image = immunostained(image, cut, own, rng)
    return _change_look(image, augmentation, rng), cut


def _sampled(
    pixels: Pixels,
    labels: NDArray[np.uint16],
    size: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[Pixels, NDArray[np.uint16]]:
    """A crop [size, size, C] and its labels [size, size], zoomed, rotated and warped."""
    x, y = _sampling_grid(labels, size, augmentation, rng)
    sampled = cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    truth = cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    crop = cast(Pixels, sampled.reshape(size, size, pixels.shape[2]))
    return crop, np.asarray(truth, np.uint16)


def _sampling_grid(
    labels: NDArray[np.uint16], size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Source coordinates (x, y), each float32 [size, size], of a zoomed, rotated, warped crop."""
    zoom = float(np.clip(np.exp(rng.normal(0, augmentation.scale_spread)), 0.4, 2.5))
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < augmentation.rotation else 0.0
    angle += rng.integers(4) * np.pi / 2
    flip = -1 if rng.random() < 0.5 else 1
    # Python floats, here and above: numpy scalars would turn every array into float64.
    centre_y, centre_x = _crop_centre(labels, size / zoom, rng).tolist()
    cos, sin = math.cos(angle), math.sin(angle)
    offset = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / zoom
    dx, dy = offset * flip, offset[:, None]
    x = (centre_x + cos * dx) - sin * dy
    y = (centre_y + sin * dx) + cos * dy
    if augmentation.elastic_px:
        cells = max(2, size // ELASTIC_GRID_PX + 1)
        grid = rng.normal(0, augmentation.elastic_px, (cells, cells, 2)).astype(np.float32)
        warp = cv2.resize(grid / zoom, (size, size), interpolation=cv2.INTER_CUBIC)
        x, y = x + warp[..., 0], y + warp[..., 1]
    return x, y


def _crop_centre(
    labels: NDArray[np.uint16], extent: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Centre (y, x) of a crop of `extent` source pixels: half the time near a nucleus."""
    shape = np.array(labels.shape, np.float64)
    centre = rng.uniform(0, 1, 2) * shape
    if rng.random() < 0.5:
        for _ in range(20):
            y, x = (rng.uniform(0, 1, 2) * shape).astype(int)
            if labels[y, x]:
                centre = np.array([y, x]) + rng.uniform(-0.3, 0.3, 2) * extent
                break
    margin = np.minimum(extent / 2, shape / 2)
    return np.clip(centre, margin, shape - margin)


def _change_look(
    image: NDArray[np.float32], augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Intensity, optics and stain changes of an image in [0, 1]; float32 [H, W, 3]."""
    if image.shape[2] == 3:
        if rng.random() < augmentation.stain:
            image = _shift_stain(image, rng)
        if rng.random() < augmentation.grey:
            image = image.mean(axis=2, keepdims=True)
    gamma = math.exp(rng.normal(0, augmentation.gamma_spread))
    image = cv2.pow(image, gamma).reshape(image.shape).astype(np.float32, copy=False)
    if rng.random() < augmentation.defocus:
        blurred = cv2.filter2D(image, -1, disk(rng.uniform(*DEFOCUS_PX)))
        image = blurred.reshape(image.shape).astype(np.float32, copy=False)
    if rng.random() < augmentation.blur:
        blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.8))
        image = blurred.reshape(image.shape).astype(np.float32, copy=False)
    if rng.random() < augmentation.noise:
        noise = rng.standard_normal(image.shape, np.float32)
        image = image + noise * np.float32(rng.uniform(0.01, 0.08))
    if rng.random() < augmentation.inversion:
        image = 1 - image
    image = np.clip(image, 0, 1)
    if rng.random() < augmentation.jpeg:
        image = _as_jpeg(image, int(rng.integers(*JPEG_QUALITY)))
    return np.array(np.broadcast_to(image, (*image.shape[:2], 3)), dtype=np.float32)


def _crowded(
    image: NDArray[np.float32],
    labels: NDArray[np.uint16],
    other: NDArray[np.float32],
    its_labels: NDArray[np.uint16],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """The light of two grey crops [H, W, 1]; where two nuclei overlap, the brighter has the pixels.

    What is left of a nucleus that is mostly covered is nobody's, as people outline it.
    """
    own_light = image - _background(image, labels)
    light = np.float32(rng.uniform(*CROWD_BRIGHTNESS)) * (other - _background(other, its_labels))
    above = _mean_of(light, its_labels) > _mean_of(own_light, labels)
    n_own = int(labels.max(initial=0))
    moved = its_labels.astype(np.int64) + n_own * (its_labels > 0)
    both = np.where(above, moved, labels)
    n_both = n_own + int(its_labels.max(initial=0)) + 1
    if n_both > np.iinfo(np.uint16).max:
        return image, labels
    areas = np.bincount(labels.ravel(), minlength=n_both) + np.bincount(
        moved.ravel(), minlength=n_both
    )
    visible = np.bincount(both.ravel(), minlength=n_both)
    both[(visible < LEAST_VISIBLE * areas)[both]] = 0
    return np.clip(image + np.maximum(light, 0), 0, 1), both.astype(np.uint16)


def _mean_of(light: NDArray[np.float32], labels: NDArray[np.uint16]) -> NDArray[np.float64]:
    """The mean light [H, W, 1] of the nucleus that each pixel is of, [H, W]; of none, -inf."""
    of = labels.ravel()
    means = np.bincount(of, light.ravel()) / np.maximum(np.bincount(of), 1)
    means[0] = -np.inf
    return np.asarray(means[labels], np.float64)


def _background(image: NDArray[np.float32], labels: NDArray[np.uint16]) -> np.float32:
    """What a grey image [H, W, 1] mostly is outside nuclei."""
    outside = image[labels == 0]
    return np.float32(np.median(outside)) if outside.size else np.float32(0)


def _dimmed(labels: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.float32]:
    """The contrast that each pixel keeps, [H, W], where some nuclei are dim or pale."""
    dim = rng.random(int(labels.max(initial=0)) + 1) < rng.uniform(*DIM_SHARE)
    kept = np.where(dim, rng.uniform(*DIM_CONTRAST, dim.shape), 1).astype(np.float32)
    kept[0] = 1
    # Smooth at their edges, as the light of a nucleus is.
    return np.asarray(cv2.GaussianBlur(kept[labels], (0, 0), 1.0), np.float32)


def _as_jpeg(image: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
    """What is left of an image [H, W, C] in [0, 1] after it was saved as a JPEG of 8 bit."""
    bits = np.rint(image * 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", bits, (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    return decoded.reshape(image.shape).astype(np.float32) / np.float32(255)


def _shift_stain(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Rotate the hue, change the saturation, and scale each channel's optical density."""
    density = density_of(image) * rng.normal(1, 0.15, 3).astype(np.float32)
    hsv = cv2.cvtColor(np.exp(-np.maximum(density, 0)), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + rng.normal(0, 12)) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * np.exp(rng.normal(0, 0.2)), 0, 1)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
