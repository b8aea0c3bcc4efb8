"""Post-processing of 2048 x 2048 pixels with about 2,000 nuclei: ours against scikit-image's chain.

.venv-train/bin/python benchmarks/postprocessing.py

The maps are the shipped network's, of a mosaic of example frames. The chain is the usual code with
scikit-image and scipy for the same parameters, smoothed equally in every frame: threshold,
remove_small_holes, Gaussian smoothing, regional maxima as markers, watershed, the merge of shallow
basins, size and score filter, regionprops_table. Both run on one thread, in turn.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from skimage.measure import label as components
from skimage.measure import regionprops_table
from skimage.morphology import local_maxima, remove_small_holes
from skimage.segmentation import watershed

from nuclei.formats.outlines import outlines
from nuclei.imaging.images import Frame, read_frame
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import predict
from nuclei.postprocessing.accumulation import Maps
from nuclei.postprocessing.measurement import measure
from nuclei.postprocessing.watershed import WatershedParameters, label_nuclei
from nuclei.quality.judgement import group_of
from nuclei.results.label_codec import compress_labels

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "fluorescence_16bit.tif"
SIDE_PX = 2048
FEATURES = ("label", "area", "centroid", "bbox", "eccentricity", "mean_intensity")

Labels = NDArray[np.integer[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="of each way [7]")
    repeats = parser.parse_args().repeats
    frame = Frame(mosaic(read_frame(EXAMPLE).pixels, SIDE_PX))
    engine = LocalEngine(ROOT / "model_repository")
    prediction = asyncio.run(predict(frame, engine, engine.find("unet")))
    accumulator, contract = prediction.accumulator, prediction.served.contract
    served = contract.parameters[group_of(frame.pixels)]
    assert isinstance(accumulator, Maps)
    assert isinstance(served, WatershedParameters)
    parameters = replace(served, smoothing_diameters=0.0)
    maps = accumulator.maps

    def chain() -> Labels:
        return chain_measured(chain_labels(maps, parameters), frame.pixels, maps[0])

    def ours() -> Labels:
        labels = label_nuclei(maps, parameters)
        measure(labels, frame.pixels, maps[0])
        return labels

    chain_ms, ours_ms = by_turns([chain, ours], repeats)
    labels, expected = label_nuclei(maps, parameters), chain_labels(maps, parameters)
    same = float((best_iou(expected, labels) > 0.9).mean())
    console = Console()
    console.print(times_table(chain_ms, ours_ms))
    console.print(
        f"nuclei: chain {expected.max()}, ours {labels.max()}; "
        f"{same:.2%} of the chain's match one of ours with IoU > 0.9"
    )
    plain_ms, served_ms = by_turns(
        [lambda: label_nuclei(maps, parameters), lambda: label_nuclei(maps, served)], repeats
    )
    console.print(
        f"labels alone {np.median(plain_ms):.0f} ms, smoothed by the size of the frame's nuclei, "
        f"as served, {np.median(served_ms):.0f} ms"
    )
    encodings: list[Callable[[], object]] = [
        lambda: compress_labels(labels),
        lambda: list(outlines(labels)),
    ]
    zstd_ms, polygons_ms = by_turns(encodings, repeats)
    console.print(
        f"encoding them: labels in zstd {np.median(zstd_ms):.0f} ms, "
        f"polygons {np.median(polygons_ms):.0f} ms"
    )


def mosaic(pixels: NDArray[Any], side: int) -> NDArray[Any]:
    """A frame of `side` pixels, [H, W, C], made of mirrored copies of a smaller one."""
    rows, columns = (-(-side // length) for length in pixels.shape[:2])
    turned = [pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]]
    whole = np.concatenate(
        [
            np.concatenate([turned[(row + 3 * column) % 4] for column in range(columns)], axis=1)
            for row in range(rows)
        ]
    )
    return np.ascontiguousarray(whole[:side, :side])


def chain_labels(maps: NDArray[np.uint8], parameters: WatershedParameters) -> Labels:
    """The nuclei found with scikit-image and scipy, int [H, W]."""
    foreground, border, distance = maps
    mask = foreground >= parameters.foreground_threshold * 255
    mask = remove_small_holes(mask, max_size=parameters.min_area_px - 1, connectivity=1)
    height = np.maximum(distance - np.float32(parameters.border_weight) * border, 0) / 255
    height = ndimage.gaussian_filter(height, parameters.smoothing_px)
    height = np.where(mask, height, np.float32(-1))
    markers = components(local_maxima(height, connectivity=2) & mask, connectivity=2)
    basins = watershed(-height, markers, mask=mask)
    nuclei = merged(basins, height, parameters.h)
    area = np.bincount(nuclei.ravel())
    score = np.bincount(nuclei.ravel(), foreground.ravel()) / np.maximum(area, 1) / 255
    keep = (area >= parameters.min_area_px) & (score >= parameters.min_score)
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0)[nuclei]


def merged(basins: Labels, height: NDArray[np.float32], h: float) -> Labels:
    """Join basins across saddles less than `h` below the lower peak, highest first."""
    n_basins = int(basins.max()) + 1
    pairs, heights = [], []
    for axis in (0, 1):
        a, b = np.moveaxis(basins, axis, 0)[:-1], np.moveaxis(basins, axis, 0)[1:]
        low = np.minimum(
            *(np.moveaxis(height, axis, 0)[part] for part in (slice(-1), slice(1, None)))
        )
        meet = (a != b) & (a > 0) & (b > 0)
        pairs.append(np.minimum(a, b)[meet].astype(np.int64) * n_basins + np.maximum(a, b)[meet])
        heights.append(low[meet])
    pair, saddle = np.concatenate(pairs), np.concatenate(heights)
    order = np.argsort(-saddle, kind="stable")
    _, first = np.unique(pair[order], return_index=True)
    order = order[np.sort(first)]
    peak = ndimage.maximum(height, basins, range(n_basins))
    parent = list(range(n_basins))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            basin = parent[basin]
        return basin

    for one, other, depth in zip(*np.divmod(pair[order], n_basins), saddle[order], strict=True):
        p, q = root(int(one)), root(int(other))
        if p != q and min(peak[p], peak[q]) - depth < h:
            higher, lower = (p, q) if peak[p] >= peak[q] else (q, p)
            parent[lower] = higher
    return np.array([root(basin) for basin in range(n_basins)])[basins]


def chain_measured(labels: Labels, pixels: NDArray[Any], foreground: NDArray[np.uint8]) -> Labels:
    regionprops_table(labels, np.dstack([pixels, foreground]), properties=FEATURES)
    return labels


def by_turns(ways: list[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Times of each, milliseconds, after a warm-up run that is not counted."""
    times: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way()
    for _ in range(repeats):
        for way, own in zip(ways, times, strict=True):
            started = time.perf_counter()
            way()
            own.append((time.perf_counter() - started) * 1e3)
    return times


def best_iou(expected: Labels, found: Labels) -> NDArray[np.float64]:
    """IoU of each expected nucleus with the found one that overlaps it most."""
    n_expected, n_found = int(expected.max()) + 1, int(found.max()) + 1
    pairs = expected.ravel().astype(np.int64) * n_found + found.ravel()
    pair, overlap = np.unique(pairs, return_counts=True)
    a, b = np.divmod(pair, n_found)
    union = np.bincount(expected.ravel())[a] + np.bincount(found.ravel())[b] - overlap
    best = np.zeros(n_expected)
    both = (a > 0) & (b > 0)
    np.maximum.at(best, a[both], (overlap / union)[both])
    return best[1:]


def times_table(chain_ms: list[float], ours_ms: list[float]) -> Table:
    table = Table("", "median ms", "least ms")
    for name, times in (("scikit-image chain", chain_ms), ("ours", ours_ms)):
        table.add_row(name, f"{np.median(times):.0f}", f"{min(times):.0f}")
    ratio = np.median(ours_ms) / np.median(chain_ms)
    table.add_row("ours / chain", f"{ratio:.3f}", f"{min(ours_ms) / min(chain_ms):.3f}")
    return table


if __name__ == "__main__":
    main()
