"""Confidence intervals of means over images, and tests of differences between models."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 4999
FEWER_RESAMPLES = 499
SEED = 0
BATCH = 500

Values = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same images.

    Attributes:
        difference: mean score of the first minus that of the second.
        interval: 95 % interval of the difference.
        p: two-sided p-value: the probability of a difference at least as large if the two models
            were equally good.
        better: number of images on which the first scores higher.
        worse: number of images on which it scores lower.
    """

    difference: float
    interval: Interval
    p: float
    better: int
    worse: int


def mean_interval(values: Values) -> Interval:
    """95 % interval of the mean of float64 [N], N at least 1.

    Bias-corrected and accelerated bootstrap over the images (Efron 1987); the same images always
    give the same interval. It assumes independent images: near-copies make it too narrow.
    """
    if np.ptp(values) < 1e-12:  # also for a single image
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def statistic_interval(n_images: int, statistic: Callable[[NDArray[np.intp]], float]) -> Interval:
    """95 % interval of a statistic that is not a mean over images: bootstrap percentiles.

    Args:
        n_images: at least 1.
        statistic: computed from the indices of the N images drawn.
    """
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(0, n_images, (FEWER_RESAMPLES, n_images))
    tails = (100 - 100 * CONFIDENCE) / 2
    low, high = np.percentile([statistic(chosen) for chosen in drawn], (tails, 100 - tails))
    return float(low), float(high)


def paired_test(first: Values, second: Values) -> PairedTest:
    """Compare the scores of two models, float64 [N] each, image by image.

    A permutation test: if the models were equal, the two scores of an image could be swapped.
    """
    difference = first - second
    p = 1.0 if len(difference) < 2 else _permuted(first, second)
    return PairedTest(
        float(difference.mean()),
        mean_interval(difference),
        p,
        int((difference > 0).sum()),
        int((difference < 0).sum()),
    )


def _permuted(first: Values, second: Values) -> float:
    found = stats.permutation_test(
        (first, second),
        _mean_difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def _mean_difference(first: Values, second: Values, axis: int) -> Values:
    return np.asarray(np.mean(first - second, axis=axis))
