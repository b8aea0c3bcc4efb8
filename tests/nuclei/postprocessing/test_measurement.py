import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from skimage.data import binary_blobs
from skimage.measure import label as components
from skimage.measure import regionprops_table

from nuclei.errors import DeadlineExceeded
from nuclei.postprocessing import bands
from nuclei.postprocessing.measurement import measure

LABEL_IMAGES = arrays.arrays(
    np.uint32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.integers(0, 4),
)
ONE = np.ones((1, 1), np.uint32)


def test_measures_a_frame_as_scikit_image_does() -> None:
    labels = components(binary_blobs(512, blob_size_fraction=0.05, rng=3)).astype(np.uint32)
    random = np.random.default_rng(4)
    pixels = random.integers(0, 65536, (512, 512, 1), dtype=np.uint16)
    foreground = random.integers(0, 256, (512, 512), dtype=np.uint8)
    nuclei = measure(labels, pixels, foreground)
    expected = regionprops_table(
        labels.astype(int),
        np.dstack([pixels, foreground / 255]),
        properties=("label", "area", "centroid", "bbox", "eccentricity", "mean_intensity"),
    )
    np.testing.assert_array_equal(nuclei.label, expected["label"])
    np.testing.assert_array_equal(nuclei.area_px, expected["area"])
    for axis in (0, 1):
        np.testing.assert_allclose(
            nuclei.centroid_px[:, axis], expected[f"centroid-{axis}"], rtol=1e-5
        )
    for side in range(4):
        np.testing.assert_array_equal(nuclei.box_px[:, side], expected[f"bbox-{side}"])
    np.testing.assert_allclose(nuclei.eccentricity, expected["eccentricity"], atol=1e-4)
    np.testing.assert_allclose(nuclei.mean_intensity, expected["mean_intensity-0"], rtol=1e-5)
    np.testing.assert_allclose(nuclei.score, expected["mean_intensity-1"], rtol=1e-4)


def test_measures_by_hand() -> None:
    labels = np.array([[0, 7, 7], [0, 0, 7], [2, 0, 0]], np.uint32)
    pixels = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    foreground = np.where(labels == 7, 204, 51).astype(np.uint8)
    nuclei = measure(labels, pixels, foreground)
    assert len(nuclei) == 2
    assert nuclei.label.tolist() == [2, 7]
    assert nuclei.area_px.tolist() == [1, 3]
    np.testing.assert_allclose(nuclei.centroid_px, [[2, 0], [1 / 3, 5 / 3]], rtol=1e-6)
    assert nuclei.box_px.tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]
    np.testing.assert_allclose(nuclei.mean_intensity, [19, (4 + 7 + 16) / 3], rtol=1e-6)
    np.testing.assert_allclose(nuclei.score, [0.2, 0.8], rtol=1e-6)
    assert nuclei.eccentricity[0] == 0


def test_columns_have_the_documented_types() -> None:
    nuclei = measure(ONE, np.ones((1, 1, 1), np.uint8), ONE.astype(np.uint8))
    types = {name: column.dtype for name, column in vars(nuclei).items()}
    assert types == {
        "label": np.uint32,
        "area_px": np.int64,
        "centroid_px": np.float32,
        "box_px": np.int32,
        "eccentricity": np.float32,
        "mean_intensity": np.float32,
        "score": np.float32,
    }


def test_lines_are_eccentric_and_circles_are_not() -> None:
    labels = np.zeros((60, 60), np.int32)
    cv2.circle(labels, (20, 20), 15, 1, -1)
    labels[50, 5:55] = 2
    nuclei = measure(
        labels.astype(np.uint32), np.ones((60, 60, 1), np.uint8), np.ones((60, 60), np.uint8)
    )
    assert nuclei.eccentricity[0] < 0.05
    assert nuclei.eccentricity[1] == pytest.approx(1)


@given(labels=LABEL_IMAGES)
def test_areas_add_up_to_the_foreground(labels: NDArray[np.uint32]) -> None:
    nuclei = measure(
        labels, labels[:, :, None].astype(np.uint16), np.full(labels.shape, 255, np.uint8)
    )
    assert nuclei.area_px.sum() == np.count_nonzero(labels)
    np.testing.assert_array_equal(nuclei.label, np.setdiff1d(labels, [0]))
    np.testing.assert_allclose(nuclei.mean_intensity, nuclei.label)
    np.testing.assert_allclose(nuclei.score, 1)
    y0, x0, y1, x1 = nuclei.box_px.T
    for label, box in zip(nuclei.label, zip(y0, x0, y1, x1, strict=True), strict=True):
        rows, columns = np.nonzero(labels == label)
        assert box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


@given(labels=LABEL_IMAGES, band_px=st.integers(1, 150))
def test_the_same_whatever_the_bands(labels: NDArray[np.uint32], band_px: int) -> None:
    pixels = labels[:, :, None].astype(np.uint8)
    whole = measure(labels, pixels, pixels[:, :, 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BAND_PX", band_px)
        banded = measure(labels, pixels, pixels[:, :, 0])
    for column, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(banded, column), values)


def test_read_only_pixels_are_measured() -> None:
    pixels = np.frombuffer(b"\x05\x00\x07\x00", "<u2").reshape(1, 2, 1)
    nuclei = measure(np.array([[1, 2]], np.uint32), pixels, np.zeros((1, 2), np.uint8))
    assert nuclei.mean_intensity.tolist() == [5, 7]


def test_a_failing_check_ends_the_work() -> None:
    def check() -> None:
        raise DeadlineExceeded("the time ran out")

    with pytest.raises(DeadlineExceeded):
        measure(ONE, np.ones((1, 1, 1), np.uint8), ONE.astype(np.uint8), check)
