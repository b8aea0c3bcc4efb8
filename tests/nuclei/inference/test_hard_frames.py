"""The shipped network on frames with faults and in colours: what it finds must not change."""

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nuclei.imaging.images import frame_from_array, read_frame
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.results.segmentation import Segmentation
from tests.shipped import SHIPPED

ROOT = Path(__file__).parents[3]
PIXELS = read_frame(ROOT / "examples" / "fluorescence_16bit.tif").pixels
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(SHIPPED)


def found_in(engine: LocalEngine, pixels: NDArray[np.generic]) -> Segmentation:
    return asyncio.run(segment(frame_from_array(pixels), engine, engine.find("unet")))


@pytest.fixture(scope="module")
def clean(engine: LocalEngine) -> Segmentation:
    return found_in(engine, PIXELS)


def alike(found: Segmentation, clean: Segmentation, within: float) -> bool:
    areas = [segmentation.nuclei.area_px.astype(float) for segmentation in (found, clean)]
    numbers = [len(segmentation.nuclei) for segmentation in (found, clean)]
    return all(
        one == pytest.approx(other, rel=within)
        for one, other in (numbers, [area.sum() for area in areas], map(np.median, areas))
    )


@pytest.mark.parametrize("share", [0.0005, 0.002, 0.01])
def test_hot_pixels(engine: LocalEngine, clean: Segmentation, share: float) -> None:
    pixels = PIXELS.copy()
    pixels[RANDOM.random(pixels.shape) < share] = 65535
    assert alike(found_in(engine, pixels), clean, 0.05)


@pytest.mark.parametrize("times", [2, 5, 10, 20, 29])
def test_debris(engine: LocalEngine, clean: Segmentation, times: int) -> None:
    pixels = PIXELS.copy()
    bright = times * int(np.percentile(PIXELS, 99.9))
    cv2.circle(pixels, (200, 150), round((0.0014 * pixels.size / np.pi) ** 0.5), bright, -1)
    found = found_in(engine, pixels)
    assert alike(found, clean, 0.05)


def test_a_saturated_fibre(engine: LocalEngine, clean: Segmentation) -> None:
    pixels = PIXELS.copy()
    cv2.line(pixels, (0, 40), (600, 400), 65535, 2)
    found = found_in(engine, pixels)
    assert alike(found, clean, 0.05)
    assert any("debris" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    "tint", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1), (0.2, 0.35, 1)]
)
def test_one_channel_in_a_colour(
    engine: LocalEngine, clean: Segmentation, tint: tuple[float, ...]
) -> None:
    lo, hi = np.percentile(PIXELS, [0.5, 99.9])
    shown = np.clip((PIXELS - lo) / (hi - lo), 0, 1) * 255 * np.array(tint)
    found = found_in(engine, shown.round().astype(np.uint8))
    assert alike(found, clean, 0.03)
    assert any("shown in a colour" in warning for warning in found.warnings)
