"""How sure a mean over images is, and whether two models differ, by resampling the images."""

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
        difference: mean of the first's score less the second's.
        interval: of the difference, 95 %.
        p: probability of a difference at least as large, either way, were the two models alike.
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
    give the same interval. It treats images as independent: near-copies make it too narrow.
    """
    if np.ptp(values) < 1e-12:  # also of one image: nothing can be told
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
    """95 % interval of what is no mean over images: percentiles of the bootstrap.

    Args:
        n_images: at least 1.
        statistic: from the indices of images that were drawn, N of them.
    """
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(0, n_images, (FEWER_RESAMPLES, n_images))
    tails = (100 - 100 * CONFIDENCE) / 2
    low, high = np.percentile([statistic(chosen) for chosen in drawn], (tails, 100 - tails))
    return float(low), float(high)


def paired_test(first: Values, second: Values) -> PairedTest:
    """Compare the scores of two models, float64 [N] each, image by image.

    A permutation test: were the models alike, each image's pair could as well be swapped.
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
