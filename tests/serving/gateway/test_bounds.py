"""When a challenger is aborted, and when chance explains its figures."""

from random import Random

import pytest
from scipy.stats import binomtest

from serving.gateway.bounds import CONFIDENCE, Bounds, lowest_rate

BOUNDS = Bounds(error_rate=0.02, latency_ratio=2.0, agreement=0.5, frames=20)


@pytest.mark.parametrize(("failed", "frames"), [(1, 1), (2, 20), (7, 500), (20, 20)])
def test_the_lowest_rate_is_that_of_the_exact_test(failed: int, frames: int) -> None:
    interval = binomtest(failed, frames).proportion_ci(2 * CONFIDENCE - 1)
    assert lowest_rate(failed, frames) == pytest.approx(interval.low)


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_few_failures_may_be_chance(failed: int) -> None:
    assert not BOUNDS.excess_of_errors(failed, 20)


def test_many_failures_are_not_chance_once_there_are_enough_frames() -> None:
    assert not BOUNDS.excess_of_errors(19, 19)
    assert "5 of 20 frames" in BOUNDS.excess_of_errors(5, 20)
    assert "30 of 500 frames" in BOUNDS.excess_of_errors(30, 500)


def test_a_challenger_within_its_bounds_is_hardly_ever_aborted() -> None:
    """Looked at after every frame of 1000 trials of 200 frames."""
    random = Random(0)
    aborted = 0
    for _ in range(1000):
        failed = 0
        for frames in range(1, 201):
            failed += random.random() < BOUNDS.error_rate
            if BOUNDS.excess_of_errors(failed, frames):
                aborted += 1
                break
    assert aborted <= 10


def test_agreement_is_too_low_only_by_more_than_chance() -> None:
    random = Random(0)
    around = [min(1.0, max(0.0, random.gauss(0.45, 0.2))) for _ in range(30)]
    assert not BOUNDS.lack_of_agreement(around)
    assert not BOUNDS.lack_of_agreement([0.0] * 19)
    assert "AP@.5 = 0.100 over 20 frames" in BOUNDS.lack_of_agreement([0.1] * 20)
    assert BOUNDS.lack_of_agreement(around * 20)


def test_latency_is_too_long_only_by_more_than_chance() -> None:
    random = Random(0)
    champion = [30 * random.lognormvariate(0, 0.3) for _ in range(40)]
    alike = [30 * random.lognormvariate(0, 0.3) for _ in range(40)]
    slow = [4 * ms for ms in alike]
    assert not BOUNDS.excess_of_latency(champion, alike)
    assert not BOUNDS.excess_of_latency(champion, slow[:19])
    assert "times as long as the champion" in BOUNDS.excess_of_latency(champion, slow)
    # One frame that took very long, such as the first of a graph that is compiled for its size.
    assert not BOUNDS.excess_of_latency(champion, [*alike, 60_000])
