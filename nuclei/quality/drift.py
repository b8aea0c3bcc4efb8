"""Drift: whether the frames of a window are still such as the model was calibrated with."""

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nuclei.quality.reference import LEVELS, GroupReference
from nuclei.results.quality import Quality

# Added to the frames of each bin, so that an empty one has a logarithm (Jeffreys' prior).
PRIOR = 0.5
_DECILES = range(2, len(LEVELS) - 1, 2)


class Bins:
    """The parts of a measure's range between the deciles of a reference.

    Deciles that are equal share a bin: many measures are often exactly 0.

    Attributes:
        edges: float64 [B - 1], rising; an edge belongs to the bin below it.
        expected: float64 [B], share of the reference's frames in each bin.
    """

    def __init__(self, quantiles: tuple[float, ...]) -> None:
        """Take the quantiles of a measure at `LEVELS`."""
        edges = np.unique([quantiles[decile] for decile in _DECILES])
        # The highest level at which the quantile is not above the edge.
        below = np.array(LEVELS)[np.searchsorted(quantiles, edges, side="right") - 1]
        if below[-1] == 1:  # nothing lies above the largest value
            edges, below = edges[:-1], below[:-1]
        self.edges = edges
        self.expected = np.diff(below, prepend=0.0, append=1.0)

    def __len__(self) -> int:
        return len(self.expected)

    def of(self, values: float | NDArray[np.float64]) -> NDArray[np.intp]:
        """The bin of each value, of any shape."""
        return np.searchsorted(self.edges, values, side="left")


class Drift:
    """The drift of each measure over the last frames of one group.

    A measure has a window of its own, of the last frames for which it was known.
    """

    def __init__(self, reference: GroupReference, window: int) -> None:
        """Watch frames.

        Args:
            reference: of the group.
            window: number of frames (`QualityReference.window`).
        """
        self._window = window
        self._bins = {name: Bins(feature.quantiles) for name, feature in reference.features.items()}
        self._counts = {name: np.zeros(len(bins)) for name, bins in self._bins.items()}
        self._last: Mapping[str, deque[int]] = {name: deque() for name in self._bins}
        self._added = 0

    @property
    def frames(self) -> int:
        """How many frames are in the window, which is full at its length."""
        return min(self._added, self._window)

    def add(self, quality: Quality) -> None:
        """Take one frame in; the oldest leaves a full window."""
        self._added += 1
        for name, bins in self._bins.items():
            value = getattr(quality, name)
            if value is None:
                continue
            counts, last = self._counts[name], self._last[name]
            if len(last) == self._window:
                counts[last.popleft()] -= 1
            last.append(int(bins.of(value)))
            counts[last[-1]] += 1

    def values(self) -> dict[str, float]:
        """The population stability index of each measure whose window is full."""
        return {
            name: float(window_psi(self._bins[name].expected, counts))
            for name, counts in self._counts.items()
            if len(self._last[name]) == self._window
        }


def psi(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Population stability index (Siddiqi 2006, "Credit Risk Scorecards", section 12).

    Args:
        expected: shares [..., B] of the bins, above 0.
        actual: the same of the frames that are compared.

    Returns:
        [...], 0 where they are the same; by convention 0.1 is a small and 0.25 a large shift.
    """
    index: NDArray[np.float64] = ((actual - expected) * np.log(actual / expected)).sum(axis=-1)
    return index


def window_psi(expected: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The index [...] of windows, from the number of their frames in each bin, [..., B]."""
    padded = counts + PRIOR
    return psi(expected, padded / padded.sum(axis=-1, keepdims=True))
