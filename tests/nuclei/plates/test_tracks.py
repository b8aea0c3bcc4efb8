"""Nuclei of a time series linked into tracks."""

import numpy as np

from nuclei.plates.tracks import Tracks, links


def test_each_goes_to_the_nearest_and_none_beyond_the_gate() -> None:
    before = np.array([[10.0, 10], [50, 50], [90, 10]])
    after = np.array([[52.0, 49], [11, 12], [10, 14], [200, 200]])
    assert links(before, after, 10).tolist() == [1, 0, -1, -1]
    assert links(before, after, 1).tolist() == [-1] * 4
    assert links(before, after[:0], 10).tolist() == []
    assert links(before[:0], after, 10).tolist() == [-1] * 4


def test_a_nucleus_that_does_not_move_is_linked() -> None:
    points = np.array([[1.0, 2], [1, 2], [30, 4]])
    assert links(points, points, 5).tolist() == [0, 1, 2]


def test_tracks_go_through_a_series_and_not_from_one_to_another() -> None:
    random = np.random.default_rng(1)
    start = random.uniform(0, 2000, (40, 2))
    tracks = Tracks(15)
    first = tracks.add(("B03", "0"), 0, start)
    other = tracks.add(("B04", "0"), 0, start)
    assert not set(first.tolist()) & set(other.tolist())
    order = random.permutation(40)
    moved = (start + random.uniform(-4, 4, start.shape))[order]
    assert (tracks.add(("B03", "0"), 1, moved) == first[order]).all()
    # A frame that is missing ends them.
    later = tracks.add(("B03", "0"), 3, moved)
    assert not set(later.tolist()) & {*first.tolist(), *other.tolist()}
