from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.draw import ellipse
from skimage.measure import regionprops

from nuclei.imaging.images import Frame
from nuclei.imaging.scaling import Scale
from nuclei.postprocessing.measurement import measure
from nuclei.postprocessing.shapes import Shapes, shapes
from nuclei.results.coordinates import PixelSize


def measured(labels: NDArray[np.uint32], frame: Frame) -> Shapes:
    return shapes(labels, measure(labels, frame.pixels, None), frame)


def scattered(seed: int, height: int = 300, width: int = 400) -> NDArray[np.uint32]:
    """Ellipses that overlap, touch, are cut by the border, have holes and parts."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.uint32)
    for label in range(1, 121):
        axes = rng.uniform(0.5, 18, 2)
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        inside = ellipse(y, x, axes[0], axes[1], shape=labels.shape, rotation=rng.uniform(-3, 3))
        labels[inside] = label
    labels[rng.random(labels.shape) < 0.02] = 0
    return labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_scikit_image(seed: int, channels: int) -> None:
    labels = scattered(seed)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 65536, (*labels.shape, channels), np.uint16)
    found = measured(labels, Frame(pixels))
    regions = regionprops(labels.astype(np.int64), pixels)

    def expected(name: str) -> NDArray[np.float64]:
        return np.array([region[name] for region in regions], np.float64)

    for name in ("axis_major_length", "axis_minor_length", "perimeter"):
        np.testing.assert_allclose(getattr(found, f"{name}_px"), expected(name), atol=1e-6)
    np.testing.assert_allclose(found.solidity, expected("solidity"))
    for name in ("intensity_mean", "intensity_std", "intensity_min", "intensity_max"):
        np.testing.assert_allclose(getattr(found, name), expected(name), rtol=1e-9, atol=1e-6)
    # Without a longer axis there is no direction; those that differ by half a turn are the same.
    long = found.axis_major_length_px > found.axis_minor_length_px + 1e-6
    turns = (found.orientation - expected("orientation"))[long] / np.pi
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-6)


def test_the_nearest_neighbor_is_nearest_in_micrometres() -> None:
    labels = np.zeros((40, 40), np.uint32)
    labels[20, 20], labels[20, 24], labels[25, 20] = 2, 5, 9
    pixels = np.zeros((40, 40, 1), np.uint8)
    square = measured(labels, Frame(pixels))
    assert square.neighbor.tolist() == [5, 2, 2]
    assert square.neighbor_distance_px.tolist() == [4, 4, 5]
    flat = measured(labels, Frame(pixels, PixelSize(y=0.1, x=1)))
    assert flat.neighbor.tolist() == [9, 2, 2]


def test_nuclei_with_the_same_centroid_are_neighbors() -> None:
    labels = np.zeros((9, 9), np.uint32)
    labels[1:8, 1:8], labels[4, 4] = 1, 2
    found = measured(labels, Frame(np.zeros((9, 9, 1), np.uint8)))
    assert found.neighbor.tolist() == [2, 1]
    assert found.neighbor_distance_px.tolist() == [0, 0]


@pytest.mark.parametrize("corner", [(0, 5), (5, 0), (19, 5), (5, 29)])
def test_what_the_border_may_cut_is_marked(corner: tuple[int, int]) -> None:
    labels = np.zeros((20, 30), np.uint32)
    labels[10, 10], labels[corner] = 1, 2
    assert measured(labels, Frame(np.zeros((20, 30, 1), np.uint8))).on_border.tolist() == [0, 1]


def test_intensities_are_in_the_units_of_the_frame() -> None:
    labels = np.zeros((4, 4), np.uint32)
    labels[1:3, 1] = 1
    pixels = np.zeros((4, 4, 1), np.uint16)
    pixels[1, 1], pixels[2, 1] = 100, 300
    found = measured(labels, Frame(pixels, scale=Scale(offset=-1, step=0.01)))
    lowest, mean, highest, std = (
        found.intensity_min,
        found.intensity_mean,
        found.intensity_max,
        found.intensity_std,
    )
    assert [*lowest[0], *mean[0], *highest[0], *std[0]] == pytest.approx([0, 1, 2, 1])


def test_it_does_not_matter_how_columns_lie_in_memory() -> None:
    """Those of a gateway's reply lie one after the other."""
    labels = scattered(1)
    frame = Frame(np.zeros((*labels.shape, 1), np.uint8))
    nuclei = measure(labels, frame.pixels, None)
    columns = {name: np.asfortranarray(getattr(nuclei, name)) for name in ("box_px", "centroid_px")}
    found, same = shapes(labels, nuclei, frame), shapes(labels, replace(nuclei, **columns), frame)
    for name, values in vars(found).items():
        np.testing.assert_array_equal(getattr(same, name), values)
