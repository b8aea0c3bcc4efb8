import cv2
import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage

from nuclei.formats.outlines import outlines
from nuclei.postprocessing.measurement import measure

LABEL_IMAGES = arrays.arrays(
    np.uint32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.integers(0, 4),
)
ONE = np.ones((1, 1), np.uint32)


def ellipses(side: int, spacing: int) -> NDArray[np.uint32]:
    """A frame full of ellipses of many sizes and directions; some touch."""
    random = np.random.default_rng(3)
    labels = np.zeros((side, side), np.int32)
    for label, (row, column) in enumerate(np.ndindex(side // spacing, side // spacing), start=1):
        centre = spacing * (np.array([column, row]) + 0.5) + random.integers(-5, 6, 2)
        axes = random.integers(spacing // 8, spacing // 3, 2)
        angle = float(random.integers(180))
        cv2.ellipse(labels, centre.astype(int).tolist(), axes.tolist(), angle, 0, 360, label, -1)
    return labels.astype(np.uint32)


def signed_area(polygon: NDArray[np.int32]) -> float:
    x, y = polygon.T.astype(float)
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def drawn(polygons: list[NDArray[np.int32]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels whose centre is inside the polygons, by counting edges to the left of the centre."""
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for polygon in polygons:
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            assert x0 == x1 or y0 == y1, "an edge that follows no pixel"
            if x0 == x1:
                crossings[min(y0, y1) : max(y0, y1), x0] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def test_an_empty_frame_has_no_nuclei() -> None:
    empty = np.zeros((4, 5), np.uint32)
    nuclei = measure(empty, np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint8))
    assert len(nuclei) == 0
    assert nuclei.centroid_px.shape == (0, 2)
    assert nuclei.box_px.shape == (0, 4)
    assert list(outlines(empty)) == []


def test_micrometres_take_both_sides_of_a_pixel() -> None:
    labels = np.zeros((10, 10), np.uint32)
    labels[2:4, 5:9] = 1
    nuclei = measure(labels, np.ones((10, 10, 1), np.uint8), np.ones((10, 10), np.uint8))
    size = (0.5, 0.25)
    np.testing.assert_allclose(nuclei.area_um2(size), [8 * 0.125])
    np.testing.assert_allclose(nuclei.centroid_um(size), [[2.5 * 0.5, 6.5 * 0.25]])
    np.testing.assert_allclose(nuclei.box_um(size), [[1.0, 1.25, 2.0, 2.25]])


@given(labels=LABEL_IMAGES)
def test_outlines_enclose_exactly_the_pixels(labels: NDArray[np.uint32]) -> None:
    traced = list(outlines(labels))
    assert [label for label, _ in traced] == np.setdiff1d(labels, [0]).tolist()
    for label, polygons in traced:
        filled = ndimage.binary_fill_holes(labels == label)
        np.testing.assert_array_equal(drawn(polygons, labels.shape), filled)
        assert sum(signed_area(polygon) for polygon in polygons) == filled.sum()
        assert len(polygons) == ndimage.label(filled)[1]


@given(labels=LABEL_IMAGES)
def test_outlines_are_valid_polygons(labels: NDArray[np.uint32]) -> None:
    for label, polygons in outlines(labels):
        together = shapely.MultiPolygon([(polygon.tolist(), []) for polygon in polygons])
        assert together.is_valid, shapely.is_valid_reason(together)
        filled = ndimage.binary_fill_holes(labels == label)
        assert together.area == filled.sum()


def test_parts_that_touch_at_a_corner_are_polygons_of_their_own() -> None:
    labels = np.kron(np.eye(3, dtype=np.uint32), np.ones((2, 2), np.uint32))
    ((_, polygons),) = outlines(labels)
    squares = [{tuple(vertex) for vertex in polygon.tolist()} for polygon in polygons]
    assert sorted(map(sorted, squares)) == [
        [(x, x), (x, x + 2), (x + 2, x), (x + 2, x + 2)] for x in (0, 2, 4)
    ]
    assert all(signed_area(polygon) == 4 for polygon in polygons)


def test_the_outline_of_one_pixel_is_its_square() -> None:
    labels = np.zeros((5, 5), np.uint32)
    labels[1, 3] = 9
    ((label, (polygon,)),) = outlines(labels)
    assert label == 9
    assert polygon.dtype == np.int32
    assert {tuple(vertex) for vertex in polygon.tolist()} == {(3, 1), (4, 1), (4, 2), (3, 2)}


def test_outlines_of_a_full_frame_are_exact() -> None:
    labels = ellipses(512, 40)
    areas = [sum(map(signed_area, polygons)) for _, polygons in outlines(labels)]
    assert areas == np.bincount(labels.ravel())[1:].tolist()
