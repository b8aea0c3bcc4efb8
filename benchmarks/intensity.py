"""What the intensity range and the rule for colours do to scores and to spoiled frames.

Prints the DSB score of the held-out images with plain percentiles and with the range of
`nuclei.imaging.intensity`; what the network finds in fluorescence frames with hot pixels, debris or
a fibre, as shares of what it finds without; and the same for frames in pseudo-colours.

    .venv-train/bin/python benchmarks/intensity.py stage1_train.zip
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nuclei.errors import InvalidImage
from nuclei.evaluation.scores import Evaluation
from nuclei.imaging.images import Frame, frame_from_array
from nuclei.imaging.intensity import HIGH_PERCENTILE, LOW_PERCENTILE, intensity_range
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.results.segmentation import Segmentation
from training.data.dataset import Sample, read_dataset

REPOSITORY = Path(__file__).parents[1] / "model_repository"
# Fewer nuclei say nothing about 5 %.
MIN_NUCLEI = 20
DEBRIS_SHARE, FIBRE_SHARE = 0.0014, 0.003
TINTS = {
    "blue": (0, 0, 1),
    "green": (0, 1, 0),
    "red": (1, 0, 0),
    "cyan": (0, 1, 1),
    "magenta": (1, 0, 1),
    "yellow": (1, 1, 0),
    "DAPI blue": (0.2, 0.35, 1),
    "orange": (1, 0.5, 0),
}
Grey = NDArray[np.uint16]


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


def scores(network: Network, samples: list[Sample]) -> Table:
    table = Table("intensity range", "DSB score", title=f"{len(samples)} held-out images")
    for name, change in (("plain percentiles", plain), ("as served", lambda frame: frame)):
        found = [
            network.find(change(frame_from_array(sample.pixels))).labels
            for sample in track(samples, name)
        ]
        table.add_row(name, f"{Evaluation.of(samples, found).overall()['dsb_score']:.4f}")
    return table


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
    table = Table(
        "fault", "nuclei", "area", "within 5 %", "plain: nuclei", "area", "within 5 %",
        title=f"{len(frames)} frames of fluorescence, beside the same without the fault",
    )  # fmt: skip
    for name, spoil in spoilers(np.random.default_rng(0)).items():
        spoiled = [frame_from_array(spoil(pixels.copy()).astype(np.uint16)) for pixels in frames]
        served = [network.find(frame) for frame in track(spoiled, name)]
        before = [network.find(plain(frame)) for frame in spoiled]
        table.add_row(name, *shares(clean, served), *shares(clean, before))
    return table


def coloured_frames(network: Network, frames: list[Grey]) -> Table:
    shown = [displayed(pixels) for pixels in frames]
    clean = [network.find(frame_from_array(pixels)) for pixels in track(shown, "grey frames")]
    table = Table("pseudo-colour", "nuclei", "area", "within 5 %", "refused")
    for name, tint in TINTS.items():
        kept, found = [], []
        for pixels, grey in zip(track(shown, name), clean, strict=True):
            try:
                frame = frame_from_array((pixels * np.array(tint)).round().astype(np.uint8))
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
    parser.add_argument("data", type=Path, help="data set the shipped model was trained on")
    parser.add_argument("--frames", type=int, default=20, help="frames of fluorescence to spoil")
    arguments = parser.parse_args()
    console, network = Console(), Network()
    held_out = [sample for sample in read_dataset(arguments.data) if sample.id in network.held_out]
    console.print(scores(network, held_out))
    frames = [
        sample.pixels.astype(np.uint16) * 16
        for sample in held_out
        if sample.modality == "fluorescence" and sample.labels.max() >= MIN_NUCLEI
    ]
    console.print(spoiled_frames(network, frames[: arguments.frames]))
    console.print(coloured_frames(network, frames[: arguments.frames]))
    for side in (512, 2048):
        console.print(f"the range of {side} x {side} pixels of 16 bit: {milliseconds(side):.2f} ms")


if __name__ == "__main__":
    main()
