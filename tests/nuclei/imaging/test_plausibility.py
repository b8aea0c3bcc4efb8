from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from nuclei.imaging.images import read_frame
from nuclei.imaging.plausibility import check_label_image

EXAMPLES = Path(__file__).parents[3] / "examples"
Labels = NDArray[np.uint32]


def discs(radius: int = 9, apart: int = 20, side: int = 200) -> Labels:
    """Label image of discs in rows."""
    labels = np.zeros((side, side), np.int32)
    centres = range(apart // 2, side, apart)
    for number, (y, x) in enumerate(((y, x) for y in centres for x in centres), start=1):
        cv2.circle(labels, (x, y), radius, number, -1)
    return labels.astype(np.uint32)


def touching() -> Labels:
    """Nuclei that fill the image, but for a corner."""
    labels = np.arange(1, 101, dtype=np.uint32).reshape(10, 10).repeat(12, 0).repeat(12, 1)
    labels[:3, :3] = 0
    return labels


def in_pieces() -> Labels:
    """Two of a hundred nuclei are cut into three."""
    labels = discs()
    labels[28:30] = 0
    labels[32:33, :45] = 0
    return labels


def with_holes() -> Labels:
    labels = discs()
    labels[::5, ::5] = 0
    return labels


def slivers() -> Labels:
    """Three nuclei that the edge has cut off."""
    labels = np.zeros((64, 64), np.uint32)
    labels[0, 3:9], labels[20:27, -1], labels[-2:, -2:] = 1, 2, 3
    return labels


def specks() -> Labels:
    """Nuclei, and what a threshold leaves of the noise between them."""
    labels = discs()
    alone = np.zeros_like(labels, dtype=bool)
    alone[::20, ::5] = True
    labels[alone] = np.arange(101, 101 + alone.sum())
    return labels


def single() -> Labels:
    return np.where(discs() == 5, np.uint32(255), 0)


PLAUSIBLE = [discs, lambda: discs(2, 6), touching, in_pieces, with_holes, slivers, single, specks]


@pytest.mark.parametrize("make", [*PLAUSIBLE, lambda: np.zeros((9, 9), np.uint32)])
def test_label_images_pass(make: Callable[[], Labels]) -> None:
    check_label_image(make())


def photograph(name: str) -> Labels:
    return read_frame(EXAMPLES / name).pixels[..., 0].astype(np.uint32)


def dark_photograph() -> Labels:
    """As a camera gives it whose offset was taken off: most of the background is 0."""
    pixels = photograph("fluorescence_16bit.tif")
    return np.maximum(pixels, np.median(pixels).astype(np.uint32)) - np.median(pixels).astype(
        np.uint32
    )


def gradient() -> Labels:
    y, x = np.mgrid[:100, :100]
    return np.maximum(255 - 6 * np.hypot(y - 50, x - 50), 0).astype(np.uint32)


def blurred() -> Labels:
    return cv2.GaussianBlur((discs() > 0) * np.float32(180), (0, 0), 1).astype(np.uint32)


def jpeg() -> Labels:
    grey = (discs() * 2).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", grey)[1], cv2.IMREAD_UNCHANGED).astype(np.uint32)


def classes() -> Labels:
    """1 is the inside of nuclei, 2 their border."""
    inside = (discs(7) > 0).astype(np.uint32)
    return inside + 2 * ((discs() > 0) & (inside == 0))


IMPLAUSIBLE: list[tuple[Callable[[], Labels], str]] = [
    (lambda: photograph("fluorescence.png"), "photograph"),
    (lambda: photograph("histology.png"), "photograph"),
    (lambda: photograph("brightfield.png"), "photograph"),
    (lambda: photograph("fluorescence_16bit.tif"), "photograph"),
    (dark_photograph, "photograph"),
    (gradient, "three pixels wide"),
    (blurred, "three pixels wide"),
    (jpeg, "a JPEG"),
    (lambda: (discs() > 0) * np.uint32(255), "the one value 255 in 100 separate places"),
    (lambda: (discs() > 0) * np.uint32(1), "skimage.measure.label"),
    (classes, "its 2 values lie in 100 separate places"),
    (lambda: discs() + 1, "no pixel is 0"),
    (lambda: np.full((9, 9), 7, np.uint32), "no pixel is 0"),
]


@pytest.mark.parametrize(("make", "reason"), IMPLAUSIBLE)
def test_what_numbers_no_nuclei_is_refused(make: Callable[[], Labels], reason: str) -> None:
    with pytest.raises(InvalidData, match=reason):
        check_label_image(make())
