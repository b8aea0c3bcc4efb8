"""A model's answers to rotated, mirrored and scaled views of an image, averaged."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import cv2
import numpy as np
from markers import Maps
from numpy.typing import NDArray
from rich.progress import track

from nuclei.imaging.images import frame_from_array
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.pipeline import predict
from nuclei.postprocessing.accumulation import Maps as MapsOfFrame
from training.data.dataset import Sample


@dataclass(frozen=True)
class View:
    """A view of an image.

    Attributes:
        turns: quarter turns, counter-clockwise.
        mirrored: left to right, before rotating.
        scale: size of the view over that of the image.
    """

    turns: int = 0
    mirrored: bool = False
    scale: float = 1.0


MIRRORED = tuple(View(0, mirrored) for mirrored in (False, True))
TURNED = tuple(View(turns) for turns in range(4))
DIHEDRAL = tuple(View(turns, mirrored) for mirrored, turns in product((False, True), range(4)))
SCALES = (0.8, 1.0, 1.25)
SCALED = tuple(View(scale=scale) for scale in SCALES)
ALL = tuple(View(v.turns, v.mirrored, scale) for v, scale in product(DIHEDRAL, SCALES))


def averaged(maps: Iterable[Sequence[Maps]]) -> list[Maps]:
    """Mean of several answers to the same images, uint8 [K, H, W] each."""
    total: list[NDArray[np.float32]] = []
    count = 0
    for answers in maps:
        count += 1
        if not total:
            total = [np.zeros(one.shape, np.float32) for one in answers]
        for sum_, one in zip(total, answers, strict=True):
            sum_ += one
    return [np.rint(sum_ / count).astype(np.uint8) for sum_ in total]


def predictions(
    samples: Sequence[Sample], engine: Engine, served: ServedVersion, view: View
) -> list[Maps]:
    """Maps of each image from one view, transformed back, uint8 [K, H, W]."""
    shown = track(samples, f"predicting {view}", transient=True)
    return [_answer(sample, engine, served, view) for sample in shown]


def _answer(sample: Sample, engine: Engine, served: ServedVersion, view: View) -> Maps:
    height, width = sample.labels.shape
    pixels = _resized(sample.pixels, round(height * view.scale), round(width * view.scale))
    seen = np.rot90(pixels[:, ::-1] if view.mirrored else pixels, view.turns)
    frame = frame_from_array(np.ascontiguousarray(seen))
    accumulator = asyncio.run(predict(frame, engine, served)).accumulator
    assert isinstance(accumulator, MapsOfFrame)
    back = np.rot90(accumulator.maps.transpose(1, 2, 0), -view.turns)
    maps = _resized(np.ascontiguousarray(back[:, ::-1] if view.mirrored else back), height, width)
    return np.ascontiguousarray(maps.transpose(2, 0, 1))


def _resized(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """[H, W, C] resized; unchanged at its own size."""
    if array.shape[:2] == (height, width):
        return array
    way = cv2.INTER_AREA if height < array.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(array, (width, height), interpolation=way).reshape(height, width, -1)
