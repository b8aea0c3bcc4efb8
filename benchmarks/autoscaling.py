"""A day of 40 microscopes against ways to choose the number of Triton pods, in a model.

.venv/bin/python benchmarks/autoscaling.py [--search] [--cold-start 420]

The model: frames arrive at the gateways, which hold so many and refuse the rest as
`serving.gateway.admission` does (places, and a caller's share of them); so many are in work at
once, the oldest first; the tiles of those go to the pod that is free first, each for a fixed time.
A pod computes nothing until its cold start is over, and is paid for from its order to its removal.
The autoscaler looks at what Prometheus recorded one scrape ago, and changes the number of pods as a
Kubernetes HorizontalPodAutoscaler does (tolerance, stabilisation, steps per minute).

Prints for the policy of k8s/components and monitoring/thresholds.yaml, the smallest fixed fleet
that keeps the goal, an HPA on the pods' CPU, and an oracle that knows the day: percentiles of a
frame's time, frames shed, GPU-hours (one GPU a pod). `--search` tries thresholds.
"""

import argparse
import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import yaml
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
    """Ours; attributes: those of `scaling.triton` in monitoring/thresholds.yaml."""

    queue_s: float
    waiting_frames: float

    def __call__(self, observed: Observed) -> float:
        by_queue = observed.pods * observed.queue_s / self.queue_s
        return max(by_queue, observed.waiting / self.waiting_frames)


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


class Fleet:
    """The gateways and the pods behind them; times are seconds since midnight."""

    def __init__(self, service: Service, pods: int) -> None:
        self._service = service
        # When each pod has computed all that it was given.
        self._free_s = [0.0] * pods
        self._starting_s: deque[float] = deque()
        # When each turn of a frame to be in work ends.
        self._turns_s = [0.0] * (service.gateways * service.frames_in_work)
        self._waiting: deque[tuple[float, int, int]] = deque()
        self._held: list[tuple[float, int]] = []
        self._held_by: Counter[int] = Counter()
        self.latency_s: list[float] = []
        self.wait_s: list[float] = []
        self.shed = 0
        self.queue_s = 0.0
        self.computed = 0

    @property
    def ready(self) -> int:
        return len(self._free_s)

    @property
    def ordered(self) -> int:
        return len(self._free_s) + len(self._starting_s)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def order(self, now_s: float, pods: int) -> None:
        """Start pods, or remove some: first those that start, then those that are free first."""
        while self.ordered < pods:
            self._starting_s.append(now_s + self._service.cold_start_s)
        while self.ordered > max(1, pods):
            if self._starting_s:
                self._starting_s.pop()
            else:
                heapq.heappop(self._free_s)

    def advance(self, now_s: float) -> None:
        """Let happen what happens until then."""
        while self._starting_s and self._starting_s[0] <= now_s:
            ready_s = self._starting_s.popleft()
            self._work(ready_s)
            heapq.heappush(self._free_s, ready_s)
        self._work(now_s)

    def arrive(self, now_s: float, microscope: int, tiles: int) -> None:
        """A frame comes: it waits for its turn, or is refused."""
        self.advance(now_s)
        while self._held and self._held[0][0] <= now_s:
            _, owner = heapq.heappop(self._held)
            self._held_by[owner] -= 1
        held = len(self._held) + len(self._waiting)
        free = self._service.gateways * self._service.frames_held - held
        own = self._held_by[microscope]
        if free < 1 or (own and own >= free):
            self.shed += 1
            return
        self._held_by[microscope] += 1
        self._waiting.append((now_s, microscope, tiles))
        self._work(now_s)

    def finish(self) -> None:
        """Answer all that is left."""
        self.advance(math.inf)

    def _work(self, until_s: float) -> None:
        """Give turns to the oldest frames."""
        while self._waiting and self._turns_s[0] <= until_s:
            arrival_s, microscope, tiles = self._waiting.popleft()
            self._compute(max(arrival_s, self._turns_s[0]), arrival_s, microscope, tiles)

    def _compute(self, turn_s: float, arrival_s: float, microscope: int, tiles: int) -> None:
        service, free_s = self._service, self._free_s
        # A gateway keeps back what Triton's queue is not to hold of its own frames.
        in_work = 1 + sum(end_s > turn_s for end_s in self._turns_s)
        sending = min(in_work, service.gateways)
        longest_s = (sending * service.tiles_in_flight - 1) * service.tile_s
        # Here a pod computes tile after tile. Its instances take longer for each, beside one
        # another: that much of the time in Triton is not spent in the queue.
        beside_s = (service.instances - 1) * service.tile_s
        begin_s = turn_s
        for _ in range(tiles):
            begin_s = max(turn_s, free_s[0])
            self.queue_s += max(0.0, min(begin_s - turn_s, longest_s) - beside_s)
            heapq.heapreplace(free_s, begin_s + service.tile_s)
        self.computed += tiles
        done_s = begin_s + service.tile_s + service.gateway_s * tiles / TILES_LARGE
        heapq.heapreplace(self._turns_s, done_s)
        heapq.heappush(self._held, (done_s, microscope))
        self.latency_s.append(done_s - arrival_s)
        self.wait_s.append(begin_s - arrival_s)


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
    fleet = Fleet(service, pods)
    steps = round(window_s / TICK_S)
    seen: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)], maxlen=steps + 1)
    counts: list[int] = []
    frames = zip(day.arrival_s.tolist(), day.microscope.tolist(), day.tiles.tolist(), strict=True)
    frame = next(frames, None)
    observed: Observed | None = None
    for now_s in np.arange(TICK_S, DAY_S + TICK_S, TICK_S).tolist():
        while frame is not None and frame[0] < now_s:
            fleet.arrive(*frame)
            frame = next(frames, None)
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
    fleet.finish()
    return Outcome(
        np.array(fleet.latency_s),
        np.array(fleet.wait_s),
        fleet.shed,
        sum(counts) * TICK_S / HOUR_S,
        np.array(counts),
    )


def oracle(day: Day, service: Service) -> Outcome:
    """The cheapest plan that keeps the goal, of those that give each minute its work.

    Plans differ in their step and in the share of a pod's time that they plan with. A plan costs
    at least one pod at all times, as the policy does.
    """
    best: Outcome | None = None
    for step_s, share in itertools.product((60.0, 300.0), (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)):
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
        Policy(scaling.queue_seconds, scaling.waiting_frames),
        spec["minReplicaCount"],
        spec["maxReplicaCount"],
        down["stabilizationWindowSeconds"],
        step["value"],
        step["periodSeconds"],
    )


def on_cpu(observed: Observed) -> float:
    """An HPA at 70 % of the CPU, as most installations have it."""
    return observed.pods * observed.busy / 0.7


def searched(day: Day, service: Service, base: Autoscaler) -> list[tuple[Autoscaler, Outcome]]:
    """Days of many thresholds: those that keep the goal first, the cheapest first."""
    tried = []
    for queue_s, waiting, stable_s, least in itertools.product(
        (0.085, 0.1, 0.115, 0.125), (1.0, 3.0), (120.0, 300.0, 600.0), (1, 2)
    ):
        wanted = Policy(queue_s, waiting)
        scaler = replace(base, wanted=wanted, stable_s=stable_s, least=least)
        tried.append((scaler, simulate(day, service, scaler, pods=least)))
    return sorted(tried, key=lambda one: (not one[1].good, one[1].gpu_hours))


def table(rows: list[tuple[str, Outcome]], oracle_hours: float) -> Table:
    """One row for each way."""
    made = Table("pods chosen by", "p50 s", "p95 s", "p99 s", "shed", "GPU-hours", "of oracle")
    for name, outcome in rows:
        percentiles = (f"{outcome.percentile_s(percent):.2f}" for percent in (50, 95, 99))
        hours = f"{outcome.gpu_hours:.1f}", f"{outcome.gpu_hours / oracle_hours:.2f}"
        made.add_row(name, *percentiles, str(outcome.shed), *hours)
    return made


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Service()
    parser.add_argument("--seed", type=int, default=0, help="of the day")
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
    day = day_of(options.seed, options.microscopes)
    console = Console(width=110)
    hours = day.tiles.sum() * service.tile_s / HOUR_S
    console.print(
        f"{len(day.tiles)} frames of {options.microscopes} microscopes (seed {options.seed}), "
        f"{hours:.1f} hours of computing, cold start {service.cold_start_s:g} s"
    )
    best = oracle(day, service)
    base = shipped()
    if options.search:
        found = [
            (
                f"{scaler.wanted}, {scaler.stable_s:g} s, at least {scaler.least}",
                outcome,
            )
            for scaler, outcome in searched(day, service, base)
        ]
        console.print(table([*found[:12], ("oracle", best)], best.gpu_hours))
        return
    count, fixed = smallest_fixed(day, service)
    rows = [
        ("the policy", simulate(day, service, base, pods=base.least)),
        (f"a fixed fleet of {count}", fixed),
        ("an HPA on CPU, 70 %", simulate(day, service, Autoscaler(on_cpu), pods=1)),
        ("an oracle", best),
    ]
    console.print(table(rows, best.gpu_hours))


if __name__ == "__main__":
    main()
