"""Nuclei of a time series linked into tracks: to the nearest centroid within a gate."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Points = NDArray[np.float64]
"""[N, 2] of (y, x), pixels."""


def links(before: Points, after: Points, gate_px: float) -> NDArray[np.int64]:
    """The nucleus before that each nucleus after is linked to, -1 where there is none.

    Pairs are taken by distance, the nearest first, each nucleus once: a nucleus that divides goes
    on as the nearer of the two, and the other begins anew.

    Args:
        before, after: centroids in two frames that follow one another.
        gate_px: largest distance of a pair, pixels.
    """
    found = np.full(len(after), -1, np.int64)
    if not len(before) or not len(after):
        return found
    pairs = KDTree(after).sparse_distance_matrix(KDTree(before), gate_px, output_type="coo_matrix")
    # Ties, and pairs at distance 0, in the order of the labels.
    order = np.lexsort((pairs.col, pairs.row, pairs.data))
    linked = np.zeros(len(before), bool)
    for new, old in zip(pairs.row[order].tolist(), pairs.col[order].tolist(), strict=True):
        if found[new] < 0 and not linked[old]:
            found[new], linked[old] = old, True
    return found


class Tracks:
    """Numbers of tracks, from 1, for the frames of several series."""

    def __init__(self, gate_px: float) -> None:
        self._gate_px = gate_px
        self._last: dict[tuple[str, ...], tuple[int, Points, NDArray[np.int64]]] = {}
        self._count = 0

    def add(self, series: tuple[str, ...], t: int, points: Points) -> NDArray[np.int64]:
        """The track of each nucleus of the next frame of a series.

        A frame that is missing, as it failed, ends all tracks.

        Args:
            series: names the series; its frames come in the order of time.
            t: number of the time point.
            points: centroids.
        """
        tracks = np.zeros(len(points), np.int64)
        last = self._last.get(series)
        if last is not None and t == last[0] + 1:
            linked = links(last[1], points, self._gate_px)
            tracks = np.where(linked >= 0, np.append(last[2], 0)[linked], 0)
        new = tracks == 0
        tracks[new] = np.arange(self._count + 1, self._count + 1 + new.sum())
        self._count += int(new.sum())
        self._last[series] = t, points, tracks
        return tracks
