"""A day of 40 microscopes against ways to choose the number of Triton pods, in a model.

.venv/bin/python benchmarks/autoscaling.py [--seeds 0 1 2] [--cold-start 420] [--search]

The model: frames arrive at the gateways, which hold so many and refuse the rest as
`serving.gateway.admission` does (places, and a caller's share of them); so many are in work at
once, the oldest first; the tiles of those go to the pod that is free first, each for a fixed time.
A pod computes nothing until its cold start is over, and is paid for from its order to its removal.
The autoscaler looks at what Prometheus recorded one scrape ago, and changes the number of pods as a
Kubernetes HorizontalPodAutoscaler does (tolerance, stabilisation, steps per minute).

Prints for the policy of k8s/components and monitoring/thresholds.yaml, the smallest fixed fleet
that keeps the goal, HPAs on the pods' CPU, and an oracle that knows the day: percentiles of a
frame's time, frames shed, GPU-hours (one GPU a pod). `--search` tries thresholds, of the policy and
of the CPU alike, and names the cheapest that keep the goal on all days.

An HPA on CPU is given its best case: nothing but the network uses the pods' cores, and the share of
them that is used is known exactly. That is a pod without a GPU.
"""

import argparse
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Protocol

import numpy as np
import yaml
from numba import njit
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from monitoring.thresholds import read_thresholds

ROOT = Path(__file__).parents[1]
SCALED = ROOT / "k8s" / "components" / "keda" / "triton.yaml"
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
# Scrape, evaluation and the autoscaler's own period.
TICK_S = 15.0
# An HPA leaves a fleet alone that is wrong by less than this.
TOLERANCE = 0.1
GOAL_P95_S = 2.0
GOAL_OF_ORACLE = 1.15
TILES_LARGE = 25
LARGE_SHARE = 0.8
# Shares of the pods' time that searches aim at.
BUSY = (0.75, 0.8, 0.85)


@dataclass(frozen=True)
class Day:
    """What arrives.

    Attributes:
        arrival_s: float64 [N], seconds since midnight, ascending.
        microscope: int64 [N], whose frame it is.
        tiles: int64 [N], tiles of the frame: 25 of 2048 x 2048 pixels, 1 of 512 x 512.
    """

    arrival_s: NDArray[np.float64]
    microscope: NDArray[np.int64]
    tiles: NDArray[np.int64]


def day_of(seed: int, microscopes: int = 40) -> Day:
    """A working day of a core facility.

    Every microscope has two sessions between 8:30 and 18:30, of 1 to 3 hours with a frame every 5 s
    (one in four of those at lunch, 12 to 13 h), and in them two bursts an hour, of 15 to 40 frames
    at 4 a second (a stack, a tile scan). Three in ten run a plate of 96 wells x 9 sites, a frame
    every 2 s, started between 9 and 20 h. At night, 20 to 6 h, one in ten watches living cells, a
    frame a minute. 80 % of the frames are 2048 x 2048, the others 512 x 512.

    Args:
        seed: of all chance.
        microscopes: how many.
    """
    rng = np.random.default_rng(seed)
    times: list[NDArray[np.float64]] = []
    owners: list[NDArray[np.int64]] = []
    for microscope in range(microscopes):
        own = [*_sessions(rng)]
        if microscope % 10 < 3:
            start_s = rng.uniform(9, 20) * HOUR_S
            own.append(start_s + 2.0 * np.arange(96 * 9) + rng.uniform(0, 0.3, 96 * 9))
        if microscope % 10 == 9:
            minutes = np.arange(0, 10 * HOUR_S, 60.0) + rng.uniform(0, 60)
            own.append((20 * HOUR_S + minutes) % DAY_S)
        for part in own:
            times.append(part)
            owners.append(np.full(len(part), microscope))
    arrival_s = np.concatenate(times)
    order = np.argsort(arrival_s, kind="stable")
    tiles = np.where(rng.random(len(order)) < LARGE_SHARE, TILES_LARGE, 1)
    return Day(arrival_s[order], np.concatenate(owners)[order], tiles)


def _sessions(rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    for earliest, latest in ((8.5, 11.0), (13.0, 15.5)):
        start_s = rng.uniform(earliest, latest) * HOUR_S
        length_s = rng.uniform(1, 3) * HOUR_S
        frames = start_s + np.sort(rng.uniform(0, length_s, rng.poisson(length_s / 5)))
        lunch = (frames >= 12 * HOUR_S) & (frames < 13 * HOUR_S)
        yield frames[~lunch | (rng.random(len(frames)) < 0.25)]
        for _ in range(rng.poisson(2 * length_s / HOUR_S)):
            begin_s = start_s + rng.uniform(0, length_s)
            yield begin_s + np.arange(rng.integers(15, 41)) / 4


@dataclass(frozen=True)
class Service:
    """What was measured of the service, and its limits (docs/performance.md, docs/settings.md).

    Attributes:
        tile_s: time of a pod for one tile of 512 x 512, while it always has more.
        gateway_s: time of a large frame outside of the network.
        gateways: gateway pods.
        frames_held: `NUCLEI_MAX_FRAMES_IN_FLIGHT` of each.
        frames_in_work: `NUCLEI_MAX_FRAMES_IN_WORK` of each.
        tiles_in_flight: `NUCLEI_TRITON_PIXELS` of each, in tiles, for each Triton.
        instances: of the network in a pod, which share its cores.
        cold_start_s: from the order of a pod to its first tile.
    """

    tile_s: float = 0.0255
    gateway_s: float = 0.072
    gateways: int = 2
    frames_held: int = 64
    frames_in_work: int = 5
    tiles_in_flight: int = 4
    instances: int = 2
    cold_start_s: float = 60.0


@dataclass(frozen=True)
class Observed:
    """What the autoscaler sees, means of the last window; attributes: as Prometheus records them.

    Attributes:
        pods: that compute.
        queue_s: time of a tile in Triton's queue.
        waiting: frames that wait in the gateways.
        busy: share of the pods' time in which they compute.
    """

    pods: int
    queue_s: float
    waiting: float
    busy: float


class Scaler(Protocol):
    """Chooses the number of pods, ordered ones included."""

    def pods(self, now_s: float, ordered: int, observed: Observed | None) -> int:
        """Args: observed: None while Prometheus has nothing."""


@dataclass
class Fixed:
    """Always the same."""

    count: int

    def pods(self, now_s: float, ordered: int, observed: Observed | None) -> int:
        return self.count


@dataclass
class Planned:
    """Follows a plan; attributes: plan: pods in each `step_s` of the day."""

    plan: NDArray[np.int64]
    step_s: float
    ahead_s: float

    def pods(self, now_s: float, ordered: int, observed: Observed | None) -> int:
        """A pod is ordered before its time by its cold start, and removed once that is over."""
        first, last = int(now_s / self.step_s), int((now_s + self.ahead_s) / self.step_s)
        return int(self.plan[first : last + 1].max(initial=1))


@dataclass
class Autoscaler:
    """A HorizontalPodAutoscaler (kubernetes/pkg/controller/podautoscaler/horizontal.go).

    Attributes:
        wanted: pods that the metrics ask for, not rounded.
        least: fewest pods.
        most: most pods.
        stable_s: scale down only to the most that was wanted in this time.
        down_pods: most pods to remove in `down_period_s`.
        down_period_s: see there.
    """

    wanted: Callable[[Observed], float]
    least: int = 1
    most: int = 20
    stable_s: float = 300.0
    down_pods: int = 1
    down_period_s: float = 60.0
    _wishes: deque[tuple[float, int]] = field(default_factory=deque, init=False)
    _removed: deque[float] = field(default_factory=deque, init=False)

    def pods(self, now_s: float, ordered: int, observed: Observed | None) -> int:
        """Without a metric nothing changes: no scaling down on ignorance."""
        if observed is None:
            self._wishes.append((now_s, ordered))
            return ordered
        wanted = self.wanted(observed)
        wish = ordered if abs(wanted / ordered - 1) <= TOLERANCE else math.ceil(wanted)
        self._wishes.append((now_s, wish))
        while self._wishes[0][0] < now_s - self.stable_s:
            self._wishes.popleft()
        while self._removed and self._removed[0] <= now_s - self.down_period_s:
            self._removed.popleft()
        if wish >= ordered:
            return max(self.least, min(wish, max(2 * ordered, ordered + 4), self.most))
        lowest = max(self.least, ordered - max(0, self.down_pods - len(self._removed)))
        target = min(ordered, max(lowest, *(each for _, each in self._wishes)))
        self._removed.extend([now_s] * (ordered - target))
        return target


@dataclass(frozen=True)
class Policy:
    """Ours.

    Attributes:
        busy: share of a pod's instances that are to compute.
        queue_s, waiting_frames: those of `scaling.triton` in monitoring/thresholds.yaml.
    """

    busy: float
    queue_s: float
    waiting_frames: float

    def __call__(self, observed: Observed) -> float:
        by_work = observed.pods * observed.busy / self.busy
        by_queue = observed.pods * observed.queue_s / self.queue_s
        return max(by_work, by_queue, observed.waiting / self.waiting_frames)

    def __str__(self) -> str:
        return f"{self.busy:g} busy, {self.queue_s:g} s, {self.waiting_frames:g} frames"


@dataclass(frozen=True)
class OnCpu:
    """An HPA on the CPU of the pods; attributes: busy: share of it that is to be used."""

    busy: float

    def __call__(self, observed: Observed) -> float:
        return observed.pods * observed.busy / self.busy

    def __str__(self) -> str:
        return f"CPU, {self.busy:.0%}"


@dataclass(frozen=True)
class Outcome:
    """A day.

    Attributes:
        latency_s: float64 [N], of each answered frame.
        wait_s: float64 [N], of it, until its last tile was begun to be computed.
        shed: frames refused.
        gpu_hours: paid.
        pods: int64 [T], ordered, at each tick.
    """

    latency_s: NDArray[np.float64]
    wait_s: NDArray[np.float64]
    shed: int
    gpu_hours: float
    pods: NDArray[np.int64]

    def percentile_s(self, percent: float) -> float:
        return float(np.percentile(self.latency_s, percent))

    @property
    def good(self) -> bool:
        return self.shed == 0 and self.percentile_s(95) < GOAL_P95_S


class Count(IntEnum):
    """What a fleet counts: frames that have waited, that have had their turn, ..."""

    WAITING = 0
    BEGUN = 1
    HELD = 2
    SHED = 3
    COMPUTED = 4


class Fleet:
    """The gateways and the pods behind them on a day; times are seconds since midnight."""

    def __init__(self, service: Service, day: Day, pods: int) -> None:
        self._service = service
        self._day = day
        # When each pod has computed all that it was given.
        self._free_s = np.zeros(pods)
        self._starting_s: deque[float] = deque()
        # When each turn of a frame to be in work ends.
        self._turns_s = np.zeros(service.gateways * service.frames_in_work)
        self._frame = 0
        count = len(day.tiles)
        places = min(count, service.gateways * service.frames_held)
        self._places = service.gateways * service.frames_held
        # Frames that wait for their turn, and those that have had it: until when, and whose.
        self._waiting = np.zeros(count, np.int64)
        self._held_s = np.zeros(places)
        self._holders = np.zeros(places, np.int64)
        self._held_by = np.zeros(day.microscope.max(initial=0) + 1, np.int64)
        self._counts = np.zeros(len(Count), np.int64)
        self._queue_s = np.zeros(1)
        self.latency_s = np.full(count, np.nan)
        self.wait_s = np.full(count, np.nan)

    @property
    def ready(self) -> int:
        return len(self._free_s)

    @property
    def ordered(self) -> int:
        return len(self._free_s) + len(self._starting_s)

    @property
    def waiting(self) -> int:
        return int(self._counts[Count.WAITING] - self._counts[Count.BEGUN])

    @property
    def computed(self) -> int:
        return int(self._counts[Count.COMPUTED])

    @property
    def shed(self) -> int:
        return int(self._counts[Count.SHED])

    @property
    def queue_s(self) -> float:
        return float(self._queue_s[0])

    def order(self, now_s: float, pods: int) -> None:
        """Start pods, or remove some: first those that start, then those that are free first."""
        while self.ordered < pods:
            self._starting_s.append(now_s + self._service.cold_start_s)
        while self.ordered > max(1, pods):
            if self._starting_s:
                self._starting_s.pop()
            else:
                self._free_s = np.delete(self._free_s, self._free_s.argmin())

    def advance(self, now_s: float) -> None:
        """Let happen what happens until then."""
        while self._starting_s and self._starting_s[0] <= now_s:
            ready_s = self._starting_s.popleft()
            self._serve(ready_s)
            self._free_s = np.append(self._free_s, ready_s)
        self._serve(now_s)

    def _serve(self, until_s: float) -> None:
        service, day = self._service, self._day
        self._frame = _serve(
            until_s,
            self._frame,
            (day.arrival_s, day.microscope, day.tiles),
            (self._free_s, self._turns_s, self._waiting),
            (self._held_s, self._holders, self._held_by),
            (self._counts, self._queue_s, self.latency_s, self.wait_s),
            (self._places, service.gateways, service.tiles_in_flight, service.instances),
            (service.tile_s, service.gateway_s),
        )


@njit(cache=True)
def _serve(until_s, frame, day, work, held, found, limits, times):  # type: ignore[no-untyped-def]
    """Serve the frames that come before a time; returns the first that comes later."""
    arrival_s, microscope, _ = day
    held_s, holders, held_by = held
    counts = found[0]
    places = limits[0]
    while frame < len(arrival_s) and arrival_s[frame] < until_s:
        now_s = arrival_s[frame]
        _begin(now_s, day, work, held, found, limits, times)
        place = 0
        while place < counts[Count.HELD]:
            if held_s[place] <= now_s:
                held_by[holders[place]] -= 1
                counts[Count.HELD] -= 1
                held_s[place] = held_s[counts[Count.HELD]]
                holders[place] = holders[counts[Count.HELD]]
            else:
                place += 1
        free = places - counts[Count.HELD] - (counts[Count.WAITING] - counts[Count.BEGUN])
        own = held_by[microscope[frame]]
        if free < 1 or (own > 0 and own >= free):
            counts[Count.SHED] += 1
        else:
            held_by[microscope[frame]] += 1
            work[2][counts[Count.WAITING]] = frame
            counts[Count.WAITING] += 1
            _begin(now_s, day, work, held, found, limits, times)
        frame += 1
    _begin(until_s, day, work, held, found, limits, times)
    return frame


@njit(cache=True)
def _begin(until_s, day, work, held, found, limits, times):  # type: ignore[no-untyped-def]
    """Give turns to the oldest frames that wait."""
    arrival_s, microscope, tiles = day
    free_s, turns_s, waiting = work
    held_s, holders, _ = held
    counts, queue_s, latency_s, wait_s = found
    _, gateways, tiles_in_flight, instances = limits
    tile_s, gateway_s = times
    while counts[Count.BEGUN] < counts[Count.WAITING]:
        turn = turns_s.argmin()
        if turns_s[turn] > until_s:
            return
        frame = waiting[counts[Count.BEGUN]]
        counts[Count.BEGUN] += 1
        turn_s = max(arrival_s[frame], turns_s[turn])
        # A gateway keeps back what Triton's queue is not to hold of its own frames.
        in_work = 1 + (turns_s > turn_s).sum()
        longest_s = (min(in_work, gateways) * tiles_in_flight - 1) * tile_s
        # Here a pod computes tile after tile. Its instances take longer for each, beside one
        # another: that much of the time in Triton is not spent in the queue.
        beside_s = (instances - 1) * tile_s
        begin_s = turn_s
        for _ in range(tiles[frame]):
            pod = free_s.argmin()
            begin_s = max(turn_s, free_s[pod])
            queue_s[0] += max(0.0, min(begin_s - turn_s, longest_s) - beside_s)
            free_s[pod] = begin_s + tile_s
        counts[Count.COMPUTED] += tiles[frame]
        done_s = begin_s + tile_s + gateway_s * tiles[frame] / TILES_LARGE
        turns_s[turn] = done_s
        held_s[counts[Count.HELD]] = done_s
        holders[counts[Count.HELD]] = microscope[frame]
        counts[Count.HELD] += 1
        latency_s[frame] = done_s - arrival_s[frame]
        wait_s[frame] = begin_s - arrival_s[frame]


def simulate(
    day: Day,
    service: Service,
    scaler: Scaler,
    *,
    pods: int = 1,
    window_s: float = 60.0,
    silent_s: tuple[float, float] = (0.0, 0.0),
) -> Outcome:
    """Run a day.

    Args:
        day: what arrives.
        service: its times and limits.
        scaler: chooses the pods, every 15 s.
        pods: at midnight, ready.
        window_s: over which metrics are averaged.
        silent_s: from when to when Prometheus has no metrics.
    """
    fleet = Fleet(service, day, pods)
    steps = round(window_s / TICK_S)
    seen: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)], maxlen=steps + 1)
    counts: list[int] = []
    observed: Observed | None = None
    for now_s in np.arange(TICK_S, DAY_S + TICK_S, TICK_S).tolist():
        fleet.advance(now_s)
        # What is decided now was scraped one tick ago.
        silent = silent_s[0] <= now_s < silent_s[1]
        fleet.order(now_s, scaler.pods(now_s, fleet.ordered, None if silent else observed))
        counts.append(fleet.ordered)
        seen.append((fleet.queue_s, fleet.computed, fleet.waiting))
        computed = fleet.computed - seen[0][1]
        observed = Observed(
            fleet.ready,
            (fleet.queue_s - seen[0][0]) / max(1, computed),
            float(np.mean([waiting for _, _, waiting in seen])),
            min(1.0, computed * service.tile_s / ((len(seen) - 1) * TICK_S * fleet.ready)),
        )
    fleet.advance(math.inf)
    answered = ~np.isnan(fleet.latency_s)
    return Outcome(
        fleet.latency_s[answered],
        fleet.wait_s[answered],
        fleet.shed,
        sum(counts) * TICK_S / HOUR_S,
        np.array(counts),
    )


def oracle(day: Day, service: Service) -> Outcome:
    """The cheapest plan that keeps the goal, of eighty that give each of its steps its work.

    Plans differ in their step and in the share of a pod's time that they plan with. A plan costs
    at least one pod at all times, as the policy does.
    """
    best: Outcome | None = None
    shares = np.arange(0.6, 1.0, 0.02)
    for step_s, share in itertools.product((30.0, 60.0, 120.0, 300.0), shares):
        bins = np.arange(0, DAY_S + step_s, step_s)
        work_s = np.histogram(day.arrival_s, bins, weights=day.tiles * service.tile_s)[0]
        plan = np.maximum(1, np.ceil(work_s / (step_s * share))).astype(np.int64)
        planned = Planned(plan, step_s, service.cold_start_s + TICK_S)
        outcome = simulate(day, service, planned, pods=int(plan[0]))
        if outcome.good and (best is None or outcome.gpu_hours < best.gpu_hours):
            best = outcome
    if best is None:
        raise SystemExit("no plan keeps the goal: the frames are too many or too large for it")
    return best


def smallest_fixed(day: Day, service: Service) -> tuple[int, Outcome]:
    """The smallest fleet that keeps the goal, and its day."""
    for count in range(1, 101):
        outcome = simulate(day, service, Fixed(count), pods=count)
        if outcome.good:
            return count, outcome
    raise SystemExit("not even 100 pods keep the goal: a single frame takes too long")


def shipped() -> Autoscaler:
    """The policy as it stands in the manifests and in the thresholds."""
    scaling = read_thresholds().scaling.triton
    spec = yaml.safe_load(SCALED.read_text())["spec"]
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    (step,) = down["policies"]
    return Autoscaler(
        Policy(
            scaling.busy_instances / Service().instances,
            scaling.queue_seconds,
            scaling.waiting_frames,
        ),
        spec["minReplicaCount"],
        spec["maxReplicaCount"],
        down["stabilizationWindowSeconds"],
        step["value"],
        step["periodSeconds"],
    )


def searched(
    days: Sequence[Day], service: Service, base: Autoscaler
) -> list[tuple[str, list[Outcome]]]:
    """Days of many thresholds: those that keep the goal on all first, the cheapest first."""
    wanted: list[Callable[[Observed], float]] = [
        *itertools.starmap(Policy, itertools.product(BUSY, (0.115, 0.13, 0.145), (5.0,))),
        *(Policy(0.75, 0.13, waiting) for waiting in (1.0, 3.0, 8.0)),
        *map(OnCpu, (*BUSY, 0.6, 0.7)),
    ]
    tried = []
    for each, stable_s in itertools.product(wanted, (120.0, 300.0, 600.0)):
        # It remembers what it wanted: one for each day.
        scalers = [replace(base, wanted=each, stable_s=stable_s) for _ in days]
        outcomes = [
            simulate(day, service, scaler, pods=base.least)
            for day, scaler in zip(days, scalers, strict=True)
        ]
        tried.append((f"{each}, down after {stable_s:g} s", outcomes))
    return sorted(
        tried,
        key=lambda one: (
            not all(outcome.good for outcome in one[1]),
            sum(outcome.gpu_hours for outcome in one[1]),
        ),
    )


def table(rows: Sequence[tuple[str, Sequence[Outcome]]], oracle_hours: float) -> Table:
    """One row for each way: of several days the worst percentile, the sums of the others."""
    made = Table("pods chosen by", "p50 s", "p95 s", "p99 s", "shed", "GPU-hours", "of oracle")
    for name, days in rows:
        percentiles = (
            f"{max(day.percentile_s(percent) for day in days):.2f}" for percent in (50, 95, 99)
        )
        hours = sum(day.gpu_hours for day in days)
        shed = sum(day.shed for day in days)
        made.add_row(name, *percentiles, str(shed), f"{hours:.1f}", f"{hours / oracle_hours:.2f}")
    return made


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Service()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the days [0]")
    parser.add_argument("--microscopes", type=int, default=40)
    parser.add_argument("--tile-ms", type=float, default=default.tile_s * 1e3, help="of one pod")
    parser.add_argument("--gateway-ms", type=float, default=default.gateway_s * 1e3)
    parser.add_argument("--gateways", type=int, default=default.gateways)
    parser.add_argument("--cold-start", type=float, default=default.cold_start_s, help="seconds")
    parser.add_argument("--search", action="store_true", help="try thresholds (minutes)")
    options = parser.parse_args()
    service = replace(
        default,
        tile_s=options.tile_ms / 1e3,
        gateway_s=options.gateway_ms / 1e3,
        gateways=options.gateways,
        cold_start_s=options.cold_start,
    )
    days = [day_of(seed, options.microscopes) for seed in options.seeds]
    base, console = shipped(), Console(width=110)
    oracles = [oracle(day, service) for day in days]
    if options.search:
        found = searched(days, service, base)
        hours = sum(best.gpu_hours for best in oracles)
        console.print(f"seeds {options.seeds}, cold start {service.cold_start_s:g} s")
        console.print(table([*found, ("an oracle", oracles)], hours))
        return
    for seed, day, best in zip(options.seeds, days, oracles, strict=True):
        hours = day.tiles.sum() * service.tile_s / HOUR_S
        console.print(
            f"{len(day.tiles)} frames of {options.microscopes} microscopes (seed {seed}), "
            f"{hours:.1f} hours of computing, cold start {service.cold_start_s:g} s"
        )
        console.print(table([*_rows(day, service), ("an oracle", [best])], best.gpu_hours))


def _rows(day: Day, service: Service) -> Iterator[tuple[str, list[Outcome]]]:
    base = shipped()
    yield "the policy", [simulate(day, service, base, pods=base.least)]
    count, fixed = smallest_fixed(day, service)
    yield f"a fixed fleet of {count}", [fixed]
    for busy in (0.7, 0.8):
        scaler = replace(shipped(), wanted=OnCpu(busy))
        yield f"an HPA on CPU, {busy:.0%}", [simulate(day, service, scaler, pods=base.least)]


if __name__ == "__main__":
    main()
