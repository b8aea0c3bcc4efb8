"""What versions cost in a real Triton: the time of a tile, and the memory of the server."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from numpy.typing import NDArray

from nuclei.console import tracked
from nuclei.errors import EngineFailed
from nuclei.evaluation.statistics import Interval, Values, statistic_interval
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.process.ports import free_ports
from serving.engine import TritonEngine
from serving.promotion.verdict import Gate
from serving.settings import TRITON_ENVIRONMENT
from serving.triton.server import TritonServer

ROUNDS = 20
# Times the champion's in the same run, or so much more where that is little; and without one.
LATENCY_RATIO, MEMORY_RATIO = 1.5, 1.5
LATENCY_SLACK_MS, MEMORY_SLACK_MB = 10.0, 100.0
LATENCY_MS, MEMORY_MB = 10_000.0, 16_384.0
TIMEOUT_S = 120.0
MAX_MESSAGE_BYTES = 2**28


@dataclass(frozen=True)
class Loaded:
    """A version in a repository of its own."""

    repository: Path
    served: ServedVersion


@dataclass(frozen=True, eq=False)
class Load:
    """What a version costs.

    Attributes:
        tile_ms: time of a tile without test-time augmentation, float64 [N], one a round in which
            all versions are asked, milliseconds.
        memory_mb: of the server and its model instances with both graphs loaded and used; what
            processes share is divided among them (PSS), megabytes.
    """

    tile_ms: Values
    memory_mb: float

    @property
    def latency_ms(self) -> float:
        """Median time of a tile, milliseconds."""
        return float(np.median(self.tile_ms))


def measure(
    versions: Sequence[Loaded],
    image: NDArray[np.uint16],
    intensity: NDArray[np.float32],
    environment: Path = TRITON_ENVIRONMENT,
) -> list[Load]:
    """Serve each version by a Triton of its own, and ask them in turn, so that they compare.

    Args:
        versions: one or more.
        image: uint16 [S, S, C], a tile of all of them.
        intensity: float32 [2], its range.
        environment: virtual environment of Triton.

    Raises:
        MissingPrerequisite, InvalidData, EngineFailed: Triton cannot serve one.
    """
    with TemporaryDirectory() as state, ExitStack() as stack:
        servers = [
            stack.enter_context(
                TritonServer(
                    version.repository,
                    Path(state),
                    metrics_port=port,
                    models=[version.served.graph_for(tta) for tta in (False, True)],
                    environment=environment,
                )
            )
            for version, port in zip(versions, free_ports(len(versions)), strict=True)
        ]
        addresses = [server.address for server in servers]
        times = asyncio.run(_tile_ms(addresses, versions, image, intensity))
        return [
            Load(of_version, _memory_mb(server))
            for of_version, server in zip(times, servers, strict=True)
        ]


def load_gates(load: Load, champion: Load | None, title: str) -> list[Gate]:
    """Whether a version takes no more time and memory than allowed.

    Times vary, on a busy machine by more than versions differ. So each is compared with the
    champion's of the same round, and a version is refused where the 95 % interval of the median
    (bootstrap over the rounds) lies above what is allowed.

    Args:
        load: of the version.
        champion: of the version to compare with, measured in the same run; None without one.
        title: of the champion.
    """
    return [_latency_gate(load, champion, title), _memory_gate(load, champion, title)]


def _latency_gate(load: Load, champion: Load | None, title: str) -> Gate:
    found = load.latency_ms
    bound, said = f"at most {LATENCY_MS:.0f} ms", f"a tile takes {found:.0f} ms"
    passed = found <= LATENCY_MS
    if champion is not None:
        ratios = load.tile_ms / champion.tile_ms
        allowed = np.maximum(LATENCY_RATIO, 1 + LATENCY_SLACK_MS / champion.tile_ms)
        low, high = _median_interval(ratios)
        bound = f"{LATENCY_RATIO} times that of {title}, or {LATENCY_SLACK_MS:.0f} ms more"
        said += f", {np.median(ratios):.2f} times that of {title} (95 %: {low:.2f} to {high:.2f})"
        passed &= _median_interval(ratios / allowed)[0] <= 1
    return Gate("latency", found, bound, passed, said)


def _median_interval(values: Values) -> Interval:
    return statistic_interval(len(values), lambda drawn: float(np.median(values[drawn])))


def _memory_gate(load: Load, champion: Load | None, title: str) -> Gate:
    found, bound = load.memory_mb, MEMORY_MB
    said = f"Triton takes {found:.0f} MB"
    if champion is not None:
        other = champion.memory_mb
        bound = min(bound, max(MEMORY_RATIO * other, other + MEMORY_SLACK_MB))
        said += f", {found / other:.2f} times that of {title}"
    return Gate("memory", found, f"at most {bound:.0f} MB", found <= bound, said)


async def _tile_ms(
    addresses: Sequence[str],
    versions: Sequence[Loaded],
    image: NDArray[np.uint16],
    intensity: NDArray[np.float32],
) -> list[Values]:
    """Milliseconds of each in each round."""
    engines = [TritonEngine([address], 1, MAX_MESSAGE_BYTES) for address in addresses]
    pairs = list(zip(engines, versions, strict=True))

    async def ask(engine: TritonEngine, version: Loaded, tta: bool) -> float:
        served = version.served
        outputs, graph = served.contract.method.outputs_for(tta), served.graph_for(tta)
        started = time.perf_counter()
        await engine.infer(graph, outputs, image, intensity, Deadline.after(TIMEOUT_S))
        return (time.perf_counter() - started) * 1000

    try:
        # The first answers are slower; and both graphs are to be used before memory is measured.
        for tta in (True, False, False):
            for pair in pairs:
                await ask(*pair, tta)
        rounds = tracked(range(ROUNDS), "Measuring in Triton")
        found = np.empty((ROUNDS, len(pairs)))
        for number in rounds:
            # Who is asked second may find the caches, or the machine, as the first has left them.
            order = range(len(pairs)) if number % 2 else reversed(range(len(pairs)))
            for place in order:
                found[number, place] = await ask(*pairs[place], False)
        return list(found.T)
    finally:
        for engine in engines:
            await engine.close()


def _memory_mb(server: TritonServer) -> float:
    try:
        if server.pid is None:
            raise EngineFailed("Triton ended while its memory was measured; try again")
        process = psutil.Process(server.pid)
        family = [process, *process.children(recursive=True)]
        return float(sum(one.memory_full_info().pss for one in family)) / 2**20
    except psutil.Error as error:
        raise EngineFailed(f"the memory of Triton cannot be measured ({error})") from error
