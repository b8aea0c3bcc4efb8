"""The model of benchmarks/autoscaling.py against reality: a burst on two Tritons of one core each.

.venv/bin/python benchmarks/autoscaling_measured.py

Starts two Tritons, each confined to one core, and a gateway that shares the tiles among them.
Measures what the model needs (the time of a tile under full load, the time of a large frame outside
of the network), then sends the burst at its times, whatever is answered, and prints its latencies
beside those that the model predicts for a fixed fleet of two.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
import psutil
from autoscaling import TILES_LARGE, Day, Fixed, Outcome, Service, simulate
from load import CHANNEL_OPTIONS, unary_load
from rich.console import Console
from rich.table import Table
from served import ROOT, example_pixels, request_of, running_gateway

from nuclei.process.ports import LOOPBACK, free_ports
from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub
from serving.triton.server import TritonServer

PODS = 2
# As many large frames as are in work at once.
CALLERS = 4
TIMEOUT_S = 120.0
# One host never has the last turn, and four fifths of the places (serving.gateway.admission).
ONE_HOST = {"gateways": 1, "frames_in_work": 4, "frames_held": 51}
LARGE_SHARE = 0.2
SIDES = {1: 512, TILES_LARGE: 2048}


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The Tritons and the gateway until the block ends; the gateway's gRPC address."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < PODS:
        sys.exit(f"this machine gives {len(cores)} core; two Tritons need one each")
    *metrics_ports, http_port, grpc_port = free_ports(PODS + 2)
    repository = ROOT / "model_repository"
    ports = {"NUCLEI_HTTP_PORT": str(http_port), "NUCLEI_GRPC_PORT": str(grpc_port)}
    with ExitStack() as ending:
        ending.callback(psutil.Process().cpu_affinity, cores)
        tritons = [TritonServer(repository, folder, metrics_port=port) for port in metrics_ports]
        for triton, core in zip(tritons, cores, strict=False):
            # What is started now stays on this core.
            psutil.Process().cpu_affinity([core])
            ending.enter_context(triton)
        psutil.Process().cpu_affinity(cores)
        addresses = [triton.address for triton in tritons]
        ending.enter_context(running_gateway(folder, addresses, **ports))
        yield f"{LOOPBACK}:{grpc_port}"


def measured_service(address: str, seconds: float) -> Service:
    """What the model needs, measured."""
    requests = {tiles: request_of(example_pixels(side)) for tiles, side in SIDES.items()}
    full = asyncio.run(unary_load(address, requests[TILES_LARGE], CALLERS, seconds))
    alone = asyncio.run(unary_load(address, requests[TILES_LARGE], 1, seconds))
    outside_ms = np.median(alone.latency_ms) - alone.stage_p50_ms()["infer"]
    tile_s = PODS / (full.frames_per_s * TILES_LARGE)
    return Service(tile_s=tile_s, gateway_s=float(outside_ms) / 1e3, **ONE_HOST)


def burst_of(service: Service, seed: int, seconds: float) -> Day:
    """Frames at half of what the service can do; twice as many as it can, in the middle tenth."""
    rng = np.random.default_rng(seed)
    per_frame_s = service.tile_s * (LARGE_SHARE * TILES_LARGE + 1 - LARGE_SHARE) / PODS
    burst_s = seconds * 0.45, seconds * 0.55
    calm = np.arange(0, seconds, 2 * per_frame_s) + rng.exponential(per_frame_s)
    more = rng.uniform(*burst_s, round(1.5 * (burst_s[1] - burst_s[0]) / per_frame_s))
    arrival_s = np.sort(np.concatenate([calm, more]))
    large = rng.random(len(arrival_s)) < LARGE_SHARE
    microscope = np.arange(len(arrival_s)) % 40
    return Day(arrival_s, microscope, np.where(large, TILES_LARGE, 1))


async def answered(address: str, day: Day) -> Outcome:
    """Send every frame at its time."""
    requests = {tiles: request_of(example_pixels(side)) for tiles, side in SIDES.items()}
    # Channels of their own: each is a caller to the gateway.
    options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(40)]
    stubs: list[Any] = [SegmentationStub(channel) for channel in channels]
    latency_s: list[float] = []
    began = time.perf_counter()

    async def send(at_s: float, stub: Any, request: pb.SegmentRequest) -> bool:
        await asyncio.sleep(max(0.0, began + at_s - time.perf_counter()))
        try:
            await stub.Segment(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False
        # From when it was to be sent: a late start here counts as waiting.
        latency_s.append(time.perf_counter() - began - at_s)
        return True

    sent = zip(day.arrival_s.tolist(), day.microscope, day.tiles.tolist(), strict=True)
    done = await asyncio.gather(
        *(send(at_s, stubs[microscope], requests[tiles]) for at_s, microscope, tiles in sent)
    )
    for channel in channels:
        await channel.close()
    latencies = np.array(latency_s)
    return Outcome(latencies, latencies, done.count(False), 0.0, np.array([PODS]))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the burst")
    parser.add_argument("--seconds", type=float, default=60, help="of the burst [60]")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, running(Path(folder)) as address:
        service = measured_service(address, options.seconds / 4)
        day = burst_of(service, options.seed, options.seconds)
        measured = asyncio.run(answered(address, day))
    predicted = simulate(day, service, Fixed(PODS), pods=PODS)
    console = Console(width=110)
    console.print(
        f"{len(day.tiles)} frames; {service.tile_s * 1e3:.1f} ms a tile of one Triton, "
        f"{service.gateway_s * 1e3:.0f} ms of a large frame outside"
    )
    table = Table("", "p50 s", "p95 s", "p99 s", "mean s", "shed")
    for name, outcome in (("measured", measured), ("predicted", predicted)):
        percentiles = [f"{outcome.percentile_s(percent):.2f}" for percent in (50, 95, 99)]
        table.add_row(name, *percentiles, f"{outcome.latency_s.mean():.2f}", str(outcome.shed))
    console.print(table)


if __name__ == "__main__":
    main()
