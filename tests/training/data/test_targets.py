import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from training.data.targets import CLOSENESS_PX, border_closeness, nuclei_of, target_maps


def test_two_touching_squares() -> None:
    labels = np.zeros((40, 40), np.uint16)
    labels[10:30, 5:19] = 1
    labels[10:30, 19:35] = 2
    foreground, border, distance = target_maps(labels)
    assert np.array_equal(foreground > 0, labels > 0)
    assert border[20, 17:21].all()
    assert not border[:, :16].any()
    assert distance[20, 18] < 0.3
    assert distance[20, 19] < 0.3
    assert distance[labels == 1].max() == distance[labels == 2].max() == 1


def test_background_has_empty_maps() -> None:
    assert not target_maps(np.zeros((20, 30), np.uint16)).any()


def test_a_single_pixel_nucleus_keeps_its_peak() -> None:
    labels = np.zeros((9, 9), np.uint16)
    labels[4, 4] = 3
    assert target_maps(labels)[2, 4, 4] == 1


@settings(max_examples=40)
@given(
    hnp.arrays(
        np.uint16, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 4)
    )
)
def test_maps_are_probabilities_and_every_nucleus_has_a_peak(labels: NDArray[np.uint16]) -> None:
    maps = target_maps(labels)
    assert maps.dtype == np.float32
    assert maps.shape == (3, *labels.shape)
    assert maps.min() >= 0
    assert maps.max() <= 1
    for number in np.unique(labels[labels > 0]):
        assert maps[2][labels == number].max() == 1
    assert not maps[2][labels == 0].any()


@settings(max_examples=40)
@given(
    hnp.arrays(
        np.uint16, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 3)
    )
)
def test_closeness_is_of_the_two_nearest_nuclei(labels: NDArray[np.uint16]) -> None:
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    away = np.sort(
        [np.full(labels.shape, np.inf)] * 2
        + [
            np.hypot(y[..., None] - rows, x[..., None] - columns).min(axis=2)
            for rows, columns in (np.nonzero(labels == n) for n in np.unique(labels[labels > 0]))
        ],
        axis=0,
    )
    expected = np.exp(-((away[0] + away[1]) ** 2) / (2 * CLOSENESS_PX**2))
    assert np.allclose(border_closeness(labels), expected, atol=5e-4)


def test_nuclei_have_the_boxes_of_their_pixels() -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[2:8, 3:9] = 7
    labels[10:19, 20:30] = 4
    parts, boxes = nuclei_of(labels)
    assert boxes.tolist() == [[3, 2, 9, 8], [20, 10, 30, 19]]
    np.testing.assert_array_equal(parts > 0, labels > 0)
    assert parts.dtype == np.int32
    assert boxes.dtype == np.float32


def test_separate_parts_of_a_label_are_separate_nuclei() -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[2:8, :4] = labels[2:8, 26:] = 3
    assert nuclei_of(labels)[1].tolist() == [[0, 2, 4, 8], [26, 2, 30, 8]]


def test_neighbours_that_touch_stay_two() -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[4:12, 4:12], labels[4:12, 12:20] = 1, 2
    parts, boxes = nuclei_of(labels)
    assert len(boxes) == parts.max() == 2


def test_slivers_are_dropped() -> None:
    labels = np.zeros((20, 30), np.uint16)
    labels[0, :7] = 1
    labels[10:14, 10:14] = 2
    parts, boxes = nuclei_of(labels)
    assert boxes.tolist() == [[10, 10, 14, 14]]
    assert set(np.unique(parts)) == {0, 1}


def test_no_nucleus_gives_no_box() -> None:
    parts, boxes = nuclei_of(np.zeros((8, 8), np.uint16))
    assert boxes.shape == (0, 4)
    assert not parts.any()
