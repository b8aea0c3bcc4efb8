"""Nuclei rendered one by one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclei.postprocessing.rendering import render_masks, render_stars

FULL = np.full((28, 28), 255, np.uint8)
SHAPE = (64, 80)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 24), st.integers(1, 40))
def test_a_full_mask_is_its_box(y: int, x: int, height: int, width: int) -> None:
    box = boxes((y, x, y + height, x + width))
    labels, scores = render_masks(box, floats(0.9), FULL[None], SHAPE, 0.5, 1)
    expected = np.zeros(SHAPE, np.uint32)
    # At the rim, the mask ends half a value inside its box.
    expected[y : y + height, x : x + width] = 1
    assert labels.shape == SHAPE
    assert (labels != expected).sum() <= 2 * (height + width)
    assert scores.tolist() == floats(0.9).tolist()


def test_a_mask_is_stretched_over_its_box() -> None:
    half = FULL.copy()
    half[:, 14:] = 0
    labels, _ = render_masks(boxes((10, 20, 38, 76)), floats(1), half[None], SHAPE, 0.5, 1)
    assert labels[11:37, 21:48].all()
    assert not labels[:, 49:].any()


def test_the_highest_score_keeps_its_pixels_and_others_get_free_ones() -> None:
    pair = boxes((10, 10, 30, 30), (10, 22, 30, 42))
    labels, scores = render_masks(pair, floats(0.6, 0.9), np.stack([FULL] * 2), SHAPE, 0.5, 1)
    assert scores.tolist() == floats(0.9, 0.6).tolist()
    assert labels[20, 25] == 1
    assert labels[20, 15] == 2
    assert labels[20, 30] == 1


@pytest.mark.parametrize(("overlap", "count"), [(0.3, 1), (0.5, 2)])
def test_what_lies_on_a_higher_scored_one_is_left_out(overlap: float, count: int) -> None:
    pair = boxes((10, 10, 30, 30), (10, 22, 30, 42))
    labels, _ = render_masks(pair, floats(0.9, 0.6), np.stack([FULL] * 2), SHAPE, overlap, 1)
    assert labels.max() == count


def test_a_copy_is_never_two_nuclei() -> None:
    twice = boxes((10, 10, 30, 30), (10, 10, 30, 30))
    labels, scores = render_masks(twice, floats(0.9, 0.8), np.stack([FULL] * 2), SHAPE, 1.0, 1)
    assert labels.max() == len(scores) == 1


def test_small_ones_and_those_outside_are_left_out() -> None:
    where = boxes(
        (0, 0, 3, 3), (70, 10, 90, 30), (10, -30, 20, -5), (20, 20, 20, 40), (40, 40, 60, 60)
    )
    labels, scores = render_masks(
        where, floats(0.9, 0.9, 0.9, 0.9, 0.5), np.stack([FULL] * 5), SHAPE, 0.5, 20
    )
    assert np.unique(labels).tolist() == [0, 1]
    assert scores.tolist() == [0.5]


def test_nothing_found_is_nothing_rendered() -> None:
    labels, scores = render_masks(boxes(), floats(), np.empty((0, 28, 28), np.uint8), SHAPE, 0.5, 1)
    assert not labels.any()
    assert len(scores) == 0


@given(st.floats(2, 20), st.integers(8, 64))
def test_equal_rays_are_a_regular_polygon(radius: float, n_rays: int) -> None:
    rays = np.full((1, n_rays), radius, np.float32)
    labels, _ = render_stars(floats(32, 40).reshape(1, 2), floats(1), rays, SHAPE, 0.5, 1)
    area = n_rays / 2 * radius**2 * math.sin(2 * math.pi / n_rays)
    assert abs(int(labels.sum()) - area) <= 2 * math.pi * radius


def test_rays_point_from_x_towards_y() -> None:
    rays = np.full((1, 32), 2, np.float32)
    rays[0, 7:10] = 15  # a quarter of a turn: down the image
    labels, _ = render_stars(floats(30, 40).reshape(1, 2), floats(1), rays, SHAPE, 0.5, 1)
    assert labels[42, 40] == 1
    assert not labels[18, 40]
    assert not labels[30, 50]


def test_a_star_at_the_edge_is_cut() -> None:
    rays = np.full((1, 32), 10, np.float32)
    labels, scores = render_stars(floats(0, 0).reshape(1, 2), floats(0.7), rays, SHAPE, 0.5, 1)
    assert labels[0, 0] == 1
    assert labels[12:].sum() == labels[:, 12:].sum() == 0
    assert scores.tolist() == floats(0.7).tolist()


def test_many_large_masks_are_drawn_part_by_part_and_may_be_ended() -> None:
    side, count = 1024, 40
    large = boxes(*((y, 0, y + side - count, side) for y in range(count)))
    scores, masks = np.linspace(1, 0.5, count, dtype=np.float32), FULL[None].repeat(count, 0)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        render_masks(large, scores, masks, (side, side), 0.5, 1, check)
    parts = [range(0, 10), range(10, 40)]
    whole, kept = render_masks(large, scores, masks, (side, side), 1.0, 1)
    assert whole.max() == len(kept) == count
    first, _ = render_masks(
        large[parts[0]], scores[parts[0]], masks[parts[0]], (side, side), 1.0, 1
    )
    np.testing.assert_array_equal(whole[first > 0], first[first > 0])
