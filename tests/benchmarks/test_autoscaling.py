"""The model of a day: against the theory of queues, and what may never happen in it."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from autoscaling import (
    DAY_S,
    HOUR_S,
    TICK_S,
    Autoscaler,
    Day,
    Fixed,
    Observed,
    Policy,
    Service,
    day_of,
    shipped,
    simulate,
)

# A queue without the gateway's limits, whose frames are single tiles.
BARE = Service(tile_s=1.0, gateway_s=0.0, gateways=1, frames_held=10**6, frames_in_work=8)


def poisson(rate: float, seed: int = 0) -> Day:
    """Frames of one tile that come at random, each of a caller of its own."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(rate * DAY_S)
    arrivals = np.sort(rng.uniform(0, DAY_S, count))
    return Day(arrivals, np.arange(count), np.ones(count, np.int64))


def mean_wait_s(rate: float, pods: int) -> float:
    """M/D/c with a service of 1 s: Cosmetatos' approximation, exact for one server.

    Source: Cosmetatos, Operational Research Quarterly 26, 1975, from Erlang's C of M/M/c.
    """
    share = rate / pods
    last = rate**pods / math.factorial(pods) / (1 - share)
    waits = last / (sum(rate**k / math.factorial(k) for k in range(pods)) + last)
    factor = (1 - share) * (pods - 1) * (math.sqrt(4 + 5 * pods) - 2) / (16 * share * pods)
    return 0.5 * (1 + factor) * waits / (pods - rate)


@pytest.mark.parametrize(("pods", "share"), [(1, 0.8), (2, 0.8), (3, 0.85)])
def test_waiting_is_that_of_theory(pods: int, share: float) -> None:
    rate = pods * share
    outcome = simulate(poisson(rate), BARE, Fixed(pods), pods=pods)
    assert outcome.wait_s.mean() == pytest.approx(mean_wait_s(rate, pods), rel=0.08)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("frames_held", [2, 64])
def test_every_frame_is_answered_or_refused(seed: int, frames_held: int) -> None:
    day = day_of(seed, 6)
    service = Service(frames_held=frames_held)
    outcome = simulate(day, service, Autoscaler(Policy(0.75, 0.13, 5.0)))
    assert len(outcome.latency_s) + outcome.shed == len(day.tiles)
    assert (outcome.shed > 0) == (frames_held == 2)
    assert outcome.latency_s.min() >= service.tile_s


def test_more_pods_are_never_slower_and_cost_more() -> None:
    day = day_of(0, 6)
    outcomes = [simulate(day, Service(), Fixed(pods), pods=pods) for pods in (1, 2, 4)]
    for fewer, more in itertools.pairwise(outcomes):
        assert (more.latency_s.mean(), more.shed) <= (fewer.latency_s.mean(), fewer.shed)
        assert more.gpu_hours > fewer.gpu_hours
    assert outcomes[0].gpu_hours == pytest.approx(24)


def test_a_pod_computes_nothing_before_its_cold_start_and_is_paid_for() -> None:
    day = Day(np.arange(0, 600, 1.0), np.arange(600), np.full(600, 1))
    service = Service(tile_s=0.9, cold_start_s=10_000)
    late = simulate(day, service, Fixed(5), pods=1)
    alone = simulate(day, service, Fixed(1), pods=1)
    assert late.latency_s.tolist() == alone.latency_s.tolist()
    assert late.gpu_hours == pytest.approx(5 * 24)


def test_a_caller_has_its_share_of_the_places_and_no_more() -> None:
    day = Day(np.zeros(10), np.zeros(10, np.int64), np.full(10, 25))
    outcome = simulate(day, Service(gateways=1, frames_held=8), Fixed(1))
    # With four held, four are free: the rule of serving.gateway.admission refuses the fifth.
    assert outcome.shed == 6


def test_missing_metrics_never_scale_down() -> None:
    """The load ends while Prometheus is away; pods go only after it is back."""
    day = day_of(0, 12)
    silent = (12 * HOUR_S, 15 * HOUR_S)
    outcome = simulate(day, Service(), Autoscaler(Policy(0.8, 0.07, 3.0)), silent_s=silent)
    during = slice(int(silent[0] / TICK_S), int(silent[1] / TICK_S) - 1)
    assert (np.diff(outcome.pods[during]) == 0).all()
    assert outcome.pods[during].min() > 1
    assert outcome.pods.min() == 1


def test_overload_is_refused_and_latency_stays_bounded() -> None:
    """Twice the frames that all pods can do: who gets a place waits as long as the places take."""
    service, most = Service(), 3
    rate = 2 * most / service.tile_s / 25
    arrivals = np.arange(0, 3 * HOUR_S, 1 / rate)
    day = Day(arrivals, np.arange(len(arrivals)) % 40, np.full(len(arrivals), 25))
    outcome = simulate(day, service, replace(shipped(), most=most), pods=most)
    assert outcome.pods.max() == most
    assert outcome.shed == pytest.approx(len(arrivals) / 2, rel=0.1)
    places = service.gateways * service.frames_held
    assert outcome.latency_s.max() < 1.1 * places * 25 * service.tile_s / most


def test_scaling_is_fast_up_and_slow_down() -> None:
    scaler = Autoscaler(lambda observed: observed.waiting, stable_s=300, down_pods=1)
    busy, idle = (Observed(2, 0.0, waiting, 0.0) for waiting in (12.0, 0.0))
    assert scaler.pods(0.0, 2, busy) == 6
    assert scaler.pods(15.0, 6, busy) == 12
    counts = [12]
    for tick in range(2, 120):
        counts.append(scaler.pods(tick * TICK_S, counts[-1], idle))
    assert counts[: int(300 / TICK_S)] == [12] * int(300 / TICK_S)
    steps = -np.diff(counts)
    assert steps.max() == 1
    assert all(steps[n : n + 4].sum() <= 1 for n in range(len(steps) - 3))
    assert counts[-1] == 1


def test_a_small_error_changes_nothing() -> None:
    scaler = Autoscaler(lambda observed: observed.waiting)
    assert scaler.pods(0.0, 10, Observed(10, 0.0, 10.9, 0.0)) == 10
    assert scaler.pods(15.0, 10, Observed(10, 0.0, 11.1, 0.0)) == 12


def test_a_day_is_that_of_its_seed() -> None:
    assert (day_of(3, 4).arrival_s == day_of(3, 4).arrival_s).all()
    assert len(day_of(3, 4).arrival_s) != len(day_of(4, 4).arrival_s)
    day = day_of(0, 20)
    hours = np.histogram(day.arrival_s, 24, (0, DAY_S))[0]
    assert hours[12] < hours[11] / 2
    assert hours[3] < hours[10] / 20
    assert (np.diff(day.arrival_s) >= 0).all()


def test_what_ships_keeps_its_goal() -> None:
    """`benchmarks/autoscaling.py` compares it with an oracle, which takes longer."""
    scaler = shipped()
    outcome = simulate(day_of(0), Service(), scaler, pods=scaler.least)
    assert outcome.good
    assert outcome.gpu_hours < 24 * outcome.pods.max() / 2
