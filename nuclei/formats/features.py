"""The features of nuclei as columns with their units, for every table."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.images import Frame
from nuclei.postprocessing.shapes import Shapes, shapes
from nuclei.results.coordinates import PixelSize
from nuclei.results.nuclei import Nuclei
from nuclei.results.segmentation import Segmentation

Columns = dict[str, NDArray[Any]]
# Lengths along a slanted line have a size in micrometres where pixels are square, or nearly so.
SQUARE = 0.001
COLOURS = ("red", "green", "blue")


def feature_columns(
    segmentation: Segmentation, frame: Frame, check: Callable[[], None] = lambda: None
) -> Columns:
    """Features by name, a row for each nucleus; what cannot be told is NaN.

    Names are those of scikit-image's `regionprops`, with a unit where there is one; `form_factor`
    is that of CellProfiler, 4 pi area / perimeter^2. Micrometres follow where the pixel size is
    known; perimeter and axes among them where pixels are square.

    Args:
        segmentation: the nuclei and their labels.
        frame: that they are of.
        check: called at intervals; an exception that it raises ends the work.
    """
    nuclei = segmentation.nuclei
    shape = shapes(segmentation.labels, nuclei, frame, check)
    size = segmentation.pixel_size_um
    columns: Columns = {
        "label": nuclei.label,
        "area_px": nuclei.area_px,
        **_points(nuclei.centroid_px, "px"),
        **_boxes(nuclei.box_px, "px"),
        **_lengths(shape, "px", 1),
        "eccentricity": nuclei.eccentricity,
        "orientation_rad": shape.orientation,
        "solidity": shape.solidity,
        "form_factor": _form_factor(nuclei, shape),
        **_intensities(nuclei, shape),
        "on_border": shape.on_border.astype(np.uint8),
        "neighbor": shape.neighbor,
        "neighbor_distance_px": shape.neighbor_distance_px,
        "score": nuclei.score,
    }
    return columns if size is None else columns | _in_micrometres(nuclei, shape, size)


def _in_micrometres(nuclei: Nuclei, shape: Shapes, size: PixelSize) -> Columns:
    centroid = nuclei.centroid_um(size)
    square = math.isclose(size.y, size.x, rel_tol=SQUARE)
    return {
        "area_um2": nuclei.area_um2(size),
        **_points(centroid, "um"),
        **_boxes(nuclei.box_um(size), "um"),
        **(_lengths(shape, "um", size.x) if square else {}),
        "neighbor_distance_um": _neighbor_distance_um(nuclei, shape, centroid),
    }


def _neighbor_distance_um(
    nuclei: Nuclei, shape: Shapes, centroid: NDArray[np.float32]
) -> NDArray[np.float64]:
    if len(nuclei) < 2:
        return np.full(len(nuclei), np.nan)
    there = np.searchsorted(nuclei.label, shape.neighbor)
    apart: NDArray[np.float64] = centroid.astype(np.float64) - centroid[there]
    return np.hypot(apart[:, 0], apart[:, 1])


def _lengths(shape: Shapes, unit: str, size: float) -> Columns:
    return {
        f"perimeter_{unit}": shape.perimeter_px * size,
        f"axis_major_length_{unit}": shape.axis_major_length_px * size,
        f"axis_minor_length_{unit}": shape.axis_minor_length_px * size,
    }


def _form_factor(nuclei: Nuclei, shape: Shapes) -> NDArray[np.float64]:
    """4 pi area / perimeter^2, NaN for a nucleus without a perimeter: of one pixel."""
    factor = np.full(len(nuclei), np.nan)
    squared = shape.perimeter_px**2
    np.divide(4 * np.pi * nuclei.area_px, squared, out=factor, where=squared > 0)
    return factor


def _intensities(nuclei: Nuclei, shape: Shapes) -> Columns:
    """Over all channels, and of each where there are three."""
    channels = shape.intensity_mean.shape[1]
    if channels == 1:
        return {
            "intensity_mean": nuclei.mean_intensity,
            "intensity_std": shape.intensity_std[:, 0],
            "intensity_min": shape.intensity_min[:, 0],
            "intensity_max": shape.intensity_max[:, 0],
        }
    return {"intensity_mean": nuclei.mean_intensity} | {
        f"intensity_{statistic}_{colour}": getattr(shape, f"intensity_{statistic}")[:, channel]
        for channel, colour in enumerate(COLOURS)
        for statistic in ("mean", "std", "min", "max")
    }


def _points(centroid: NDArray[Any], unit: str) -> Columns:
    return {f"centroid_x_{unit}": centroid[:, 1], f"centroid_y_{unit}": centroid[:, 0]}


def _boxes(box: NDArray[Any], unit: str) -> Columns:
    corners = {"x0": 1, "y0": 0, "x1": 3, "y1": 2}
    return {f"box_{name}_{unit}": box[:, column] for name, column in corners.items()}
