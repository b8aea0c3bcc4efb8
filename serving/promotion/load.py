"""What versions cost in a real Triton: the time of a tile, and the memory of the server."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.progress import track

from nuclei.console import messages
from nuclei.errors import EngineFailed
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.process.ports import free_ports
from serving.engine import TritonEngine
from serving.settings import TRITON_ENVIRONMENT
from serving.triton.server import TritonServer

ROUNDS = 15
TIMEOUT_S = 120.0
MAX_MESSAGE_BYTES = 2**28


@dataclass(frozen=True)
class Loaded:
    """A version in a repository of its own."""

    repository: Path
    served: ServedVersion


@dataclass(frozen=True)
class Load:
    """What a version costs.

    Attributes:
        latency_ms: of a tile without test-time augmentation, median, milliseconds.
        memory_mb: of the server and its model instances with both graphs loaded and used; what
            processes share is divided among them (PSS), megabytes.
    """

    latency_ms: float
    memory_mb: float


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
        latencies = asyncio.run(_latencies(addresses, versions, image, intensity))
        return [
            Load(latency, _memory_mb(server))
            for latency, server in zip(latencies, servers, strict=True)
        ]


async def _latencies(
    addresses: Sequence[str],
    versions: Sequence[Loaded],
    image: NDArray[np.uint16],
    intensity: NDArray[np.float32],
) -> list[float]:
    """Median milliseconds of each."""
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
        rounds = track(range(ROUNDS), "Measuring in Triton", console=messages(), transient=True)
        found = [[await ask(*pair, False) for pair in pairs] for _ in rounds]
        return [median(of_version) for of_version in zip(*found, strict=True)]
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
