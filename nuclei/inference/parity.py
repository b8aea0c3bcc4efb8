"""Numerical differences between two answers to the same tile, for every method."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.inference.graph import MAPS, SCORES
from nuclei.postprocessing.accumulation import Outputs

SAME_PLACE_PX = 2.0


def differences(a: Outputs, b: Outputs) -> dict[str, float]:
    """Largest absolute difference of each tensor, in its own units.

    Where nuclei are found one by one, only those in both answers are compared; `UNMATCHED` is the
    number of those in only one of them.

    Args:
        a, b: the tensors of a method (`nuclei.inference.method.Method.outputs`), by name.
    """
    if SCORES not in a:
        return {name: _largest(a[name], b[name]) for name in a}
    of_a, of_b = _matched(*(next(iter(outputs.values())) for outputs in (a, b)))
    return {
        "UNMATCHED": float(len(a[SCORES]) + len(b[SCORES]) - 2 * len(of_a)),
        **{
            name: _largest(a[name], b[name])
            if name == MAPS
            else _largest(a[name][of_a], b[name][of_b])
            for name in a
        },
    }


def _matched(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the nuclei found at the same place.

    Args:
        a, b: their boxes or points, float32 [N, D], pixels.
    """
    distance = np.abs(a[:, None] - b[None]).max(axis=2)
    if not distance.size:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    nearest = distance.argmin(axis=1)
    mutual = distance[:, nearest].argmin(axis=0) == np.arange(len(a))
    near = mutual & (distance[np.arange(len(a)), nearest] < SAME_PLACE_PX)
    return np.flatnonzero(near), nearest[near]


def _largest(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0))
