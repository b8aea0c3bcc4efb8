"""What the live view costs a stream: switched off, on while nobody looks, and with one looker.

.venv/bin/python benchmarks/live.py                 (four minutes)

Two gateways on one Triton, one of them with NUCLEI_LIVE=false, get the same raw 512 x 512 frames of
16 bit by a stream with a constant number in flight, in turns. Every frame is of another position,
so that the looker is sent a picture of each: of a real acquisition ten a second for each position.
Prints medians over the rounds, with the least and the most.
"""

import argparse
import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
from bench import machine
from load import Load, stream_load
from rich.console import Console
from rich.table import Table
from served import ROOT, example_pixels, request_of, running_gateway

from nuclei.process.ports import LOOPBACK, free_ports
from serving.triton.server import TritonServer

SIDE_PX = 512
IN_FLIGHT = 4
WARM_UP_S = 5.0
OFF, UNSEEN, SEEN = "NUCLEI_LIVE=false", "on, nobody looks", "on, one looks"


@asynccontextmanager
async def looker(url: str) -> AsyncIterator[list[int]]:
    """Somebody with the page open; the number of frames and of pictures that came."""
    came = [0, 0]

    async def look() -> None:
        async with (
            httpx.AsyncClient(timeout=None, trust_env=False) as client,
            client.stream("GET", f"{url}/v1/live") as answer,
        ):
            async for line in answer.aiter_lines():
                came[0] += '"kind": "frame"' in line
                came[1] += '"picture"' in line

    looking = asyncio.create_task(look())
    try:
        yield came
    finally:
        looking.cancel()


async def measured(mode: str, ports: dict[str, tuple[int, int]], seconds: float) -> Load:
    """One load in one of the modes."""
    http, grpc = ports[OFF if mode == OFF else UNSEEN]
    request, address = request_of(example_pixels(SIDE_PX)), f"{LOOPBACK}:{grpc}"
    if mode != SEEN:
        return await stream_load(address, request, IN_FLIGHT, seconds)
    async with looker(f"http://{LOOPBACK}:{http}") as came:
        load = await stream_load(address, request, IN_FLIGHT, seconds)
    if not came[1]:
        raise SystemExit(f"the looker got {came[0]} frames and no picture: nothing was measured")
    return load


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each load [10]")
    parser.add_argument("--rounds", type=int, default=7, help="of the three loads [7]")
    arguments = parser.parse_args()
    loads: dict[str, list[Load]] = defaultdict(list)
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics_port, *of_gateways = free_ports(5)
        first, second, third, fourth = of_gateways
        ports = {OFF: (first, second), UNSEEN: (third, fourth)}
        repository = ROOT / "model_repository"
        with (
            TritonServer(repository, folder / "triton", metrics_port=metrics_port) as triton,
            running_gateway(
                folder / "off", [triton.address], **_settings(ports[OFF], NUCLEI_LIVE="false")
            ),
            running_gateway(folder / "on", [triton.address], **_settings(ports[UNSEEN])),
        ):
            for mode in (OFF, UNSEEN):
                asyncio.run(measured(mode, ports, WARM_UP_S))
            for turn in range(arguments.rounds):
                modes = [OFF, UNSEEN, SEEN]
                # Each is first, second and last in turn.
                for mode in modes[turn % 3 :] + modes[: turn % 3]:
                    load = asyncio.run(measured(mode, ports, arguments.seconds))
                    loads[mode].append(load)
                    figures = f"{load.frames_per_s:.2f} frames/s, {load.percentile_ms(50):.1f} ms"
                    console.print(f"{mode}: {figures}, {load.failed} failed")
    console.print(table(loads))
    console.print(machine())


def _settings(ports: tuple[int, int], **others: str) -> dict[str, str]:
    http, grpc = map(str, ports)
    return {"NUCLEI_HTTP_PORT": http, "NUCLEI_GRPC_PORT": grpc, **others}


def table(loads: dict[str, list[Load]]) -> Table:
    shown = Table("live view", "frames", "frames/s", "p50, ms", "p95, ms", "failed")
    for mode in (OFF, UNSEEN, SEEN):
        rows = loads[mode]
        shown.add_row(
            mode,
            str(sum(len(load.latency_ms) for load in rows)),
            _spread([load.frames_per_s for load in rows]),
            *(_spread([load.percentile_ms(percent) for load in rows]) for percent in (50, 95)),
            str(sum(load.failed for load in rows)),
        )
    return shown


def _spread(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
