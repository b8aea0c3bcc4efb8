from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed as flooded

from nuclei.errors import DeadlineExceeded
from nuclei.evaluation.metrics import score_image
from nuclei.postprocessing import bands
from nuclei.postprocessing.watershed import WatershedParameters, label_nuclei

PARAMETERS = WatershedParameters(min_area_px=4)


def cones(
    shape: tuple[int, int], nuclei: list[tuple[int, int, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Maps of discs (y, x, radius) whose distance falls linearly, and the discs as labels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    depth = np.zeros(shape)
    labels = np.zeros(shape, np.uint32)
    for number, (cy, cx, radius) in enumerate(nuclei, start=1):
        cone = 1 - np.hypot(y - cy, x - cx) / radius
        labels[cone > np.maximum(depth, 0)] = number
        depth = np.maximum(depth, cone)
    foreground = (labels > 0) * 255
    maps = np.stack([foreground, np.zeros(shape), np.clip(depth, 0, 1) * 255]).astype(np.uint8)
    return maps, labels


def test_touching_discs_are_two_nuclei() -> None:
    maps, truth = cones((80, 120), [(40, 40, 22), (40, 76, 22)])
    found = label_nuclei(maps, PARAMETERS)
    assert found.max() == 2
    assert score_image(truth, found)["dsb_score"] > 0.9


def test_a_shallow_saddle_does_not_split() -> None:
    maps, _ = cones((80, 120), [(40, 50, 30), (40, 58, 30)])
    assert label_nuclei(maps, replace(PARAMETERS, h=0.3)).max() == 1


def bumpy(magnification: int) -> NDArray[np.uint8]:
    """Four discs whose distance has a second peak, at some magnification."""
    discs = [(25, 25, 18), (25, 75, 18), (75, 25, 18), (75, 75, 18)]
    maps, _ = cones((100, 100), discs)
    for y, x, _ in discs:
        maps[2, y - 1 : y + 2, x + 9 : x + 12] = 255
    return maps.repeat(magnification, axis=1).repeat(magnification, axis=2)


@pytest.mark.parametrize("magnification", [1, 2, 4])
def test_smoothing_is_as_wide_as_the_nuclei_are(magnification: int) -> None:
    maps = bumpy(magnification)
    parameters = replace(PARAMETERS, smoothing_px=0.5)
    assert label_nuclei(maps, parameters).max() == 8
    assert label_nuclei(maps, replace(parameters, smoothing_diameters=0.1)).max() == 4
    # What is smoothed more by itself stays so.
    wide = replace(parameters, smoothing_px=4.0 * magnification)
    np.testing.assert_array_equal(
        label_nuclei(maps, wide), label_nuclei(maps, replace(wide, smoothing_diameters=0.01))
    )


def test_the_least_area_does_not_change_what_is_smoothed() -> None:
    """Else leaving out small nuclei would redraw the others."""
    maps, _ = cones((120, 120), [(20, 20, 4), (20, 60, 4), (20, 100, 4), (80, 60, 30)])
    parameters = replace(PARAMETERS, smoothing_diameters=0.15)
    every, large = (label_nuclei(maps, replace(parameters, min_area_px=area)) for area in (4, 100))
    assert (every.max(), large.max()) == (4, 1)
    np.testing.assert_array_equal(large == 1, every == every[80, 60])


@pytest.mark.parametrize("parameters", [PARAMETERS, replace(PARAMETERS, smoothing_diameters=0.1)])
def test_an_empty_map_has_no_nuclei(parameters: WatershedParameters) -> None:
    found = label_nuclei(np.zeros((3, 50, 60), np.uint8), parameters)
    assert found.shape == (50, 60)
    assert found.dtype == np.uint32
    assert not found.any()


def test_a_flat_full_map_is_one_nucleus() -> None:
    maps = np.zeros((3, 40, 40), np.uint8)
    maps[0] = 255
    assert np.array_equal(label_nuclei(maps, PARAMETERS), np.ones((40, 40)))


def test_small_and_doubtful_objects_are_dropped() -> None:
    maps, _ = cones((80, 120), [(20, 20, 3), (40, 60, 15)])
    assert label_nuclei(maps, replace(PARAMETERS, min_area_px=100)).max() == 1
    maps[0] = np.minimum(maps[0], 150)
    assert label_nuclei(maps, replace(PARAMETERS, min_score=0.9)).max() == 0


def test_a_pinhole_is_filled() -> None:
    maps, _ = cones((60, 60), [(30, 30, 20)])
    maps[0, 30:31, 30:32] = 0
    assert label_nuclei(maps, PARAMETERS)[30, 30] == 1


discs = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 129), st.integers(4, 25)), max_size=12
)


@settings(max_examples=60)
@given(discs, st.floats(0.01, 0.5), st.integers(1, 60))
def test_labels_are_gapless_and_a_deeper_saddle_never_splits_more(
    nuclei: list[tuple[int, int, int]], h: float, min_area_px: int
) -> None:
    maps, _ = cones((100, 130), nuclei)
    parameters = replace(PARAMETERS, h=h, min_area_px=min_area_px)
    found = label_nuclei(maps, parameters)
    areas = np.bincount(found.ravel())
    assert (areas[1:] >= min_area_px).all()
    deeper = label_nuclei(maps, replace(parameters, h=h + 0.2))
    assert deeper.max() <= found.max() or min_area_px > 1


def random_maps(shape: tuple[int, int], seed: int, smoothness_px: float) -> NDArray[np.uint8]:
    """Irregular maps: nuclei of all shapes, holes, plateaus."""
    noise = np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)
    smooth = np.stack([ndimage.gaussian_filter(one, smoothness_px) for one in noise])
    scaled = smooth / (2 * smooth.std(axis=(1, 2), keepdims=True) + 1e-9) + 0.6
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)


sides = st.integers(1, 90)
smoothings = st.sampled_from([(0.0, 0.0), (0.5, 0.0), (1.5, 0.0), (0.5, 0.2)])


@settings(max_examples=60)
@given(sides, sides, st.integers(0, 99), smoothings, st.integers(1, 2000))
def test_the_same_nuclei_whatever_the_bands(
    height: int, width: int, seed: int, smoothing: tuple[float, float], band_px: int
) -> None:
    maps = random_maps((height, width), seed, 3)
    least, relative = smoothing
    parameters = replace(PARAMETERS, smoothing_px=least, smoothing_diameters=relative)
    whole = label_nuclei(maps, parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BAND_PX", band_px)
        np.testing.assert_array_equal(label_nuclei(maps, parameters), whole)


@settings(max_examples=40)
@given(st.permutations(range(256)))
def test_basins_are_those_of_flooding(heights: list[int]) -> None:
    distance = np.array(heights, np.uint8).reshape(16, 16)
    maps = np.stack([np.full_like(distance, 255), np.zeros_like(distance), distance])
    found = label_nuclei(maps, WatershedParameters(0.5, 0.0, 0.0, 0.0, 1, 0.0))
    cross = ndimage.generate_binary_structure(2, 1)
    peaks, _ = ndimage.label(ndimage.maximum_filter(distance, footprint=cross) == distance)
    np.testing.assert_array_equal(found, flooded(-distance.astype(int), peaks))


def test_the_mask_is_kept_and_only_small_holes_are_filled() -> None:
    maps = random_maps((200, 300), 5, 2)
    found = label_nuclei(maps, WatershedParameters(0.5, 0.1, 1.0, 0.5, 6, 0.0))
    mask = maps[0] >= 0.5 * 255
    holes, _ = ndimage.label(~mask)
    filled = mask | (np.bincount(holes.ravel()) < 6)[holes]
    components, _ = ndimage.label(filled)
    large = (np.bincount(components.ravel()) >= 6)[components] & filled
    assert (mask != filled).any()
    assert not (found > 0)[~filled].any()
    # Only small objects cut off by a deep saddle are missing.
    assert (found > 0)[large].mean() > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (1, 5000), (5000, 1), (3, 70000)])
def test_frames_of_any_shape(shape: tuple[int, int]) -> None:
    maps = np.full((3, *shape), 255, np.uint8)
    parameters = replace(PARAMETERS, min_area_px=1, border_weight=0.0)
    for relative in (0.0, 1.0):
        found = label_nuclei(maps, replace(parameters, smoothing_diameters=relative))
        assert found.shape == shape
        assert (found == 1).all()


def test_a_failing_check_ends_the_work() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise DeadlineExceeded("the time ran out")

    with pytest.raises(DeadlineExceeded):
        label_nuclei(cones((80, 120), [(40, 40, 22)])[0], PARAMETERS, check)
    assert calls == 3
