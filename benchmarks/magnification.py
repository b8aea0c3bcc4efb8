"""What the expected diameter brings on images of another magnification than the model was tuned to.

    .venv-train/bin/python benchmarks/magnification.py tnbc.zip nuinsseg.zip --images 20

Each image is resampled by each of `--scales`. The model segments it without adjustments, and with
`diameter` set to the median of what its true nuclei measure across. Prints the mean DSB score of
both and the paired difference with its 95 % interval over the images.
"""

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nuclei.evaluation.metrics import Overlap, scores_of
from nuclei.evaluation.statistics import paired_test
from nuclei.imaging.images import frame_from_array
from nuclei.inference.engine import ServedVersion
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.results.adjustments import AS_TUNED, Adjustments
from training.data.dataset import Sample, read_dataset

REPOSITORY = Path(__file__).parents[1] / "model_repository"
SCORE = "dsb_score"
# Smaller ones are what resampling left of a nucleus.
SMALLEST_PX = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="+", help="folder or zip of images with nuclei")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--images", type=int, default=20, help="at most, of each data set")
    asked = parser.parse_args()
    engine = LocalEngine(REPOSITORY)
    served = engine.find("unet")
    table = Table(
        *("images", "scale", "n", "median diameter", "without", "with `diameter`"),
        *("difference (95 %)", "p"),
    )
    for path in asked.data:
        samples = read_dataset(path)
        order = np.random.default_rng(0).permutation(len(samples))[: asked.images]
        for scale in asked.scales:
            scaled = [resampled(samples[index], scale) for index in order]
            table.add_row(path.stem, f"{scale:g}", *row(scaled, engine, served))
    Console(width=140).print(table)


def row(samples: list[Sample], engine: LocalEngine, served: ServedVersion) -> list[str]:
    diameters = [diameter_px(sample.labels) for sample in samples]
    without, given = [], []
    for sample, diameter in track(list(zip(samples, diameters, strict=True)), transient=True):
        without.append(score(sample, engine, served, AS_TUNED))
        given.append(score(sample, engine, served, Adjustments(diameter_px=diameter)))
    test = paired_test(np.array(given), np.array(without))
    low, high = test.interval
    return [
        str(len(samples)),
        f"{np.median(diameters):.0f} px",
        f"{np.mean(without):.3f}",
        f"{np.mean(given):.3f}",
        f"{test.difference:+.3f} ({low:+.3f} to {high:+.3f})",
        f"{test.p:.3f}",
    ]


def resampled(sample: Sample, scale: float) -> Sample:
    """The sample at another magnification."""
    if scale == 1:
        return sample
    height, width = (max(1, round(length * scale)) for length in sample.labels.shape)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels: Any = cv2.resize(sample.pixels, (width, height), interpolation=way)
    labels: Any = cv2.resize(sample.labels, (width, height), interpolation=cv2.INTER_NEAREST)
    return replace(sample, pixels=pixels.reshape(height, width, -1), labels=labels)


def diameter_px(labels: NDArray[Any]) -> float:
    """Of a circle with the median area of the nuclei; labels [H, W], at least one."""
    areas = np.bincount(labels.ravel())[1:]
    return float(np.sqrt(4 / np.pi * np.median(areas[areas >= SMALLEST_PX])))


def score(
    sample: Sample, engine: LocalEngine, served: ServedVersion, adjustments: Adjustments
) -> float:
    frame = frame_from_array(sample.pixels)
    found = asyncio.run(segment(frame, engine, served, adjustments=adjustments))
    return scores_of(Overlap.of(sample.labels, found.labels))[SCORE]


if __name__ == "__main__":
    main()
