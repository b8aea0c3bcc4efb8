import numpy as np
import pytest

from nuclei.evaluation.metrics import Overlap
from nuclei.postprocessing.rendering import render_stars
from training.data.dataset import Sample
from training.data.stars import N_RAYS, star_targets

Y, X = np.mgrid[:128, :160]


def disc(y: float, x: float, radius: float, label: int = 1) -> np.ndarray:
    return np.where(np.hypot(Y - y, X - x) < radius, label, 0).astype(np.uint16)


def rendered(targets: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The nuclei of perfect answers."""
    cells = np.argwhere(targets[0] > 0.3)
    rays = np.ascontiguousarray(targets[1:, cells[:, 0], cells[:, 1]].T)
    known = (rays >= 0).all(axis=1)
    points = (2 * cells[known] + 0.5).astype(np.float32)
    scores = targets[0][tuple(cells[known].T)]
    labels, _ = render_stars(points, scores, rays[known], shape, 0.3, 1)
    return labels


def test_rays_of_a_disc_are_its_radius() -> None:
    targets = star_targets(disc(60.5, 80.5, 20))
    assert targets.shape == (1 + N_RAYS, 64, 80)
    assert targets[0, 30, 40] == targets[0].max() > 0.9
    np.testing.assert_allclose(targets[1:, 30, 40], 20, atol=0.8)


def test_rays_start_towards_x_and_turn_towards_y() -> None:
    targets = star_targets(disc(60.5, 80.5, 20))
    right, below = targets[1, 30, 45], targets[1 + N_RAYS // 4, 35, 40]
    np.testing.assert_allclose([right, below], 10, atol=0.8)


def test_rays_agree_with_the_authors_code(samples: list[Sample]) -> None:
    geometry = pytest.importorskip("stardist.geometry")
    labels = samples[0].labels
    expected = geometry.star_dist(labels, N_RAYS, mode="cpp")[::2, ::2]
    found = star_targets(labels)
    # The authors' rays start half a pixel further up and left, and end at the image's edge.
    inner = (found[0] > 0.4) & (found[1:] >= 0).all(axis=0)
    assert inner.sum() > 50
    difference = (found[1:].transpose(1, 2, 0) - expected)[inner]
    assert np.abs(difference.mean()) < 0.2
    assert np.percentile(np.abs(difference), 95) < 2


def test_perfect_answers_give_the_nuclei_back() -> None:
    labels = disc(40, 40, 12) + disc(40, 62, 9, 2) + disc(90, 100, 25, 3) + disc(20, 140, 5, 4)
    found = rendered(star_targets(labels), labels.shape)
    assert found.max() == 4
    assert Overlap.of(labels, found).dsb_score() > 0.8


def test_turning_an_image_turns_its_targets() -> None:
    labels = disc(40, 40, 12) + disc(90, 100, 25, 3)
    turned = star_targets(np.ascontiguousarray(labels[:, ::-1]))
    mirrored = (N_RAYS // 2 - np.arange(N_RAYS)) % N_RAYS
    straight = star_targets(labels)[:, :, ::-1]
    np.testing.assert_allclose(turned[0], straight[0], atol=1e-6)
    deep = straight[0] > 0.3
    difference = np.abs(turned[1:] - straight[1:][mirrored])[:, deep]
    # A ray between two rows of pixels follows one of them.
    assert difference.mean() < 0.1
    assert difference.max() < 2


def test_a_ray_that_leaves_the_image_is_unknown() -> None:
    targets = star_targets(disc(60.5, 0, 20))
    assert (targets[1 + N_RAYS // 2, 28:33, 2] == -1).all()
    assert (targets[1, 28:33, 2] > 0).all()


def test_background_has_neither_depth_nor_rays() -> None:
    assert not star_targets(np.zeros((64, 96), np.uint16)).any()
