"""What the intensity range and the rule for colours do to scores and to spoiled frames.

Prints the DSB score of each data set with plain percentiles and with the range of
`nuclei.imaging.intensity`, and how many of its stained images keep their colours; what the network
finds in fluorescence frames with hot pixels, debris or a fibre, as shares of what it finds without;
and the same for frames in pseudo-colours.

    PYTHONPATH=. .venv-train/bin/python benchmarks/intensity.py stage1_train.zip coelho2009.zip ...
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nuclei.errors import InvalidImage
from nuclei.evaluation.scores import Evaluation
from nuclei.imaging.images import Frame, frame_from_array
from nuclei.imaging.intensity import (
    HIGH_PERCENTILE,
    LOW_PERCENTILE,
    intensity_of,
    intensity_range,
)
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.results.segmentation import Segmentation
from tests.nuclei.imaging.tints import TINTS, tinted
from training.data.dataset import Sample, read_dataset

REPOSITORY = Path(__file__).parents[1] / "model_repository"
# Fewer nuclei say nothing about 5 %.
MIN_NUCLEI = 20
DEBRIS_SHARE, FIBRE_SHARE = 0.0014, 0.003
# Widths that differ by more are of another range.
SAME_RANGE = 0.03
# A spoiled frame may change its range by so much.
SPOILED_RANGE = 0.3
Grey = NDArray[np.uint16]
Item = TypeVar("Item")


def plain(frame: Frame) -> Frame:
    """The frame with the percentiles of all of its pixels as its range."""
    ends = np.percentile(
        frame.pixels, [LOW_PERCENTILE, HIGH_PERCENTILE], method="inverted_cdf"
    ).tolist()
    return replace(frame, intensity_range=(ends[0], max(ends[1], ends[0] + 1)))


def spoilers(rng: np.random.Generator) -> dict[str, Callable[[Grey], Grey]]:
    """Ways to spoil a frame, by name."""

    def hot(share: float) -> Callable[[Grey], Grey]:
        return lambda pixels: np.where(rng.random(pixels.shape) < share, 65535, pixels)

    def debris(times: int) -> Callable[[Grey], Grey]:
        def spoil(pixels: Grey) -> Grey:
            height, width = pixels.shape[:2]
            radius = round((DEBRIS_SHARE * height * width / np.pi) ** 0.5)
            centre = int(rng.integers(radius, width - radius)), int(rng.integers(radius, height))
            return np.asarray(cv2.circle(pixels, centre, radius, level(pixels, times), -1))

        return spoil

    def fibre(times: int) -> Callable[[Grey], Grey]:
        def spoil(pixels: Grey) -> Grey:
            height, width = pixels.shape[:2]
            thickness = max(1, round(FIBRE_SHARE * height))
            ends = (0, int(rng.integers(height))), (width, int(rng.integers(height)))
            return np.asarray(cv2.line(pixels, *ends, level(pixels, times), thickness))

        return spoil

    def level(pixels: Grey, times: int) -> int:
        return min(65535, times * int(np.percentile(pixels, HIGH_PERCENTILE)))

    return (
        {f"{share:.2%} hot pixels": hot(share) for share in (0.0005, 0.002, 0.01)}
        | {f"debris, {times} times as bright": debris(times) for times in (2, 5, 10, 50)}
        | {f"fibre, {times} times as bright": fibre(times) for times in (5, 50)}
    )


class Network:
    """The shipped model in this process."""

    def __init__(self) -> None:
        self._engine = LocalEngine(REPOSITORY)
        self.held_out = frozenset(self._engine.find("unet").contract.held_out)

    def find(self, frame: Frame) -> Segmentation:
        return asyncio.run(segment(frame, self._engine, self._engine.find("unet")))


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        samples: the images that the shipped model was not trained on.
        stained: of all images, those of histology.
    """

    name: str
    samples: list[Sample]
    stained: list[Sample]

    @classmethod
    def of(cls, path: Path, held_out: frozenset[str]) -> "DataSet":
        samples = read_dataset(path)
        return cls(
            path.stem,
            [one for one in samples if one.id in held_out] or samples,
            [one for one in samples if one.modality == "histology"],
        )

    @property
    def to_spoil(self) -> list[Grey]:
        """Grey frames of fluorescence, of 16 bit."""
        return [
            sample.pixels.astype(np.uint16) * (16 if sample.pixels.dtype == np.uint8 else 1)
            for sample in self.samples
            if sample.modality == "fluorescence"
            and sample.pixels.shape[2] == 1
            and sample.labels.max() >= MIN_NUCLEI
        ]


def scores(network: Network, sets: list[DataSet], images: int | None) -> Table:
    table = Table(
        "data set", "images", "plain percentiles", "as served", "another range", "stained"
    )
    for one in sets:
        samples = spread(one.samples, images)
        before, served, others = [], [], 0
        for sample in track(samples, one.name):
            frame = frame_from_array(sample.pixels)
            other = abs(width(frame) / width(plain(frame)) - 1)
            served.append(network.find(frame).labels)
            before.append(network.find(plain(frame)).labels if other else served[-1])
            others += other > SAME_RANGE
        shown = [
            f"{Evaluation.of(samples, found).overall()['dsb_score']:.4f}"
            for found in (before, served)
        ]
        in_colour = sum(sample.pixels.shape[2] == 3 for sample in one.stained)
        stained = f"{in_colour} of {len(one.stained)} in colour" if one.stained else ""
        table.add_row(one.name, str(len(samples)), *shown, str(others), stained)
    return table


def width(frame: Frame) -> float:
    lo, hi = intensity_of(frame).range.astype(float)
    return float(hi - lo)


def spread(items: list[Item], count: int | None) -> list[Item]:
    """So many of the items, at even distances; all of them for None."""
    if count is None or count >= len(items):
        return items
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]


def shares(clean: list[Segmentation], spoiled: list[Segmentation]) -> tuple[str, str, str]:
    """Medians of the shares of number and total area, and how often both are within 5 %."""
    pairs = np.array(
        [
            (
                len(other.nuclei) / len(one.nuclei),
                other.nuclei.area_px.sum() / one.nuclei.area_px.sum(),
            )
            for one, other in zip(clean, spoiled, strict=True)
        ]
    )
    number, area = np.median(pairs, axis=0)
    near = np.mean(np.abs(pairs - 1).max(axis=1) <= 0.05)
    return f"{number:.3f}", f"{area:.3f}", f"{near:.0%}"


def spoiled_frames(network: Network, frames: list[Grey]) -> Table:
    clean = [network.find(frame_from_array(pixels)) for pixels in track(frames, "clean frames")]
    widths = np.array([width(frame_from_array(pixels)) for pixels in frames])
    table = Table(
        "fault", "range within 30 %", "nuclei", "area", "within 5 %",
        "plain: nuclei", "area", "within 5 %",
        title=f"{len(frames)} frames of fluorescence, beside the same without the fault",
    )  # fmt: skip
    for name, spoil in spoilers(np.random.default_rng(0)).items():
        spoiled = [frame_from_array(spoil(pixels.copy()).astype(np.uint16)) for pixels in frames]
        served = [network.find(frame) for frame in track(spoiled, name)]
        before = [network.find(plain(frame)) for frame in spoiled]
        near = np.abs(np.array([width(frame) for frame in spoiled]) / widths - 1) <= SPOILED_RANGE
        kept = f"{near.mean():.0%}"
        table.add_row(name, kept, *shares(clean, served), *shares(clean, before))
    return table


def coloured_frames(network: Network, frames: list[Grey]) -> Table:
    shown = [displayed(pixels) for pixels in frames]
    clean = [network.find(frame_from_array(pixels)) for pixels in track(shown, "grey frames")]
    table = Table("pseudo-colour", "nuclei", "area", "within 5 %", "refused")
    for name, tint in TINTS.items():
        kept, found = [], []
        for pixels, grey in zip(track(shown, name), clean, strict=True):
            try:
                frame = frame_from_array(tinted(pixels, tint))
            except InvalidImage:
                continue
            kept.append(grey)
            found.append(network.find(frame))
        table.add_row(name, *shares(kept, found), str(len(shown) - len(kept)))
    return table


def displayed(pixels: Grey) -> NDArray[np.uint8]:
    """As a display shows it: 8 bit, stretched."""
    lo, hi = intensity_range(pixels).range
    return np.asarray((np.clip((pixels - lo) / (hi - lo), 0, 1) * 255).round(), np.uint8)


def milliseconds(side: int) -> float:
    pixels = np.random.default_rng(0).poisson(300, (side, side, 1)).astype(np.uint16)
    spent = []
    for _ in range(50):
        started = time.thread_time()
        intensity_range(pixels)
        spent.append(time.thread_time() - started)
    return float(np.median(spent)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, nargs="+", help="data sets, folders or zips")
    parser.add_argument("--images", type=int, help="of each data set to score (default: all)")
    parser.add_argument("--frames", type=int, default=20, help="of fluorescence to spoil [20]")
    arguments = parser.parse_args()
    console, network = Console(), Network()
    sets = [DataSet.of(path, network.held_out) for path in arguments.data]
    console.print(scores(network, sets, arguments.images))
    frames = spread([frame for one in sets for frame in one.to_spoil], arguments.frames)
    console.print(spoiled_frames(network, frames))
    console.print(coloured_frames(network, frames))
    for side in (512, 2048):
        console.print(f"the range of {side} x {side} pixels of 16 bit: {milliseconds(side):.2f} ms")


if __name__ == "__main__":
    main()
