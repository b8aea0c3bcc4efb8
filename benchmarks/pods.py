"""What each container of the pods takes: memory and processor time, idle and under load.

.venv-train/bin/python benchmarks/pods.py            (six minutes)

Runs the processes of the containers on this machine: `nuclei serve` with a registry, and an MLflow
server on SQLite. Memory is the peak of what the kernel cannot drop (memory.py says how it is read).
Processor time is seconds of one core for a frame, of all processes of a container: other than
frames/s, it depends little on what else the machine does. The requests and limits in k8s/ are made
from this table.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from bench import machine
from load import Load, unary_load
from memory import Peaks
from rich.console import Console
from rich.progress import track
from served import START_S, Served, example_pixels, part_of, request_of, running_service

from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports

SIDES_PX = (512, 2048)
CALLERS = (1, 4, 16)
IDLE_S = 10.0
# Of which processes a container consists.
CONTAINERS = {"gateway": ("gateway", "decoders"), "triton": ("triton", "stubs"), "sync": ("sync",)}
HEAD = """\
| frames | callers | frames/s | p95 s | gateway CPU s/frame | Triton CPU s/frame \
| gateway MiB | Triton MiB | sync MiB | MLflow MiB |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


@contextmanager
def mlflow_server() -> Iterator[Served]:
    """An empty registry until the block ends."""
    (port,) = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"
    with tempfile.TemporaryDirectory() as folder:
        server = Child(
            "MLflow",
            [
                *(str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"),
                *("--host", LOOPBACK, "--port", str(port)),
                *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                *("--artifacts-destination", f"{folder}/artifacts"),
            ],
            # As the ConfigMap `mlflow` has it.
            {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            Path(folder) / "mlflow.log",
        )
        server.start()
        try:
            _wait_healthy(server, url)
            yield Served(server.pid or 0, "", url)
        finally:
            server.stop(5)


def _wait_healthy(server: Child, url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with suppress(URLError, ConnectionError):
            urlopen(f"{url}/health", timeout=5).close()
            return
        if not server.running or time.monotonic() > deadline:
            sys.exit(f"MLflow did not start:\n{server.last_lines(20)}")
        time.sleep(0.2)


def cpu_s(served: Served) -> dict[str, float]:
    """Processor time of each part up to now, seconds of one core; with that of ended decoders."""
    total: dict[str, float] = defaultdict(float)
    for process in psutil.Process(served.pid).children(recursive=True):
        with suppress(psutil.Error):
            total[part_of(process)] += sum(process.cpu_times()[:4])
    return total


def row(
    name: str, callers: int, load: Load | None, used: dict[str, float], peaks: tuple[Peaks, Peaks]
) -> str:
    of_service, of_mlflow = peaks
    # Each caller sends one before the time is taken.
    frames = len(load.latency_ms) + callers if load else 0
    per_frame = [
        f"{sum(used[part] for part in CONTAINERS[container]) / frames:.2f}" if frames else ""
        for container in ("gateway", "triton")
    ]
    speed = (
        [f"{load.frames_per_s:.1f}", f"{load.percentile_ms(95) / 1e3:.2f}"] if load else ["", ""]
    )
    memory = [sum(of_service.mib[part] for part in parts) for parts in CONTAINERS.values()]
    memory.append(sum(of_mlflow.mib[part] for part in of_mlflow.processes))
    failed = f" ({load.failed} failed)" if load and load.failed else ""
    cells = [
        name + failed,
        str(callers or ""),
        *speed,
        *per_frame,
        *(f"{mib:.0f}" for mib in memory),
    ]
    return f"| {' | '.join(cells)} |"


def rows(served: Served, registry: Served, seconds: float) -> Iterator[str]:
    with Peaks(served) as peaks, Peaks(registry) as registry_peaks:
        time.sleep(IDLE_S)
    yield row("idle", 0, None, {}, (peaks, registry_peaks))
    for side in SIDES_PX:
        request = request_of(example_pixels(side))
        for callers in CALLERS:
            with Peaks(served) as peaks, Peaks(registry) as registry_peaks:
                before = cpu_s(served)
                load = asyncio.run(unary_load(served.grpc_address, request, callers, seconds))
                used = {part: s - before[part] for part, s in cpu_s(served).items()}
            name = f"{side} x {side}"
            yield row(name, callers, load, used, (peaks, registry_peaks))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30, help="of each load [30]")
    seconds = parser.parse_args().seconds
    total = 1 + len(SIDES_PX) * len(CALLERS)
    (port,) = free_ports(1)
    with ExitStack() as stack:
        registry = stack.enter_context(mlflow_server())
        settings = {
            "NUCLEI_SYNC": registry.http_url,
            "NUCLEI_SYNC_PORT": str(port),
            "NUCLEI_DEFAULT_TIMEOUT_S": "600",
        }
        served = stack.enter_context(running_service(**settings))
        found = list(track(rows(served, registry, seconds), "Measuring", total, transient=True))
    Console().print("\n".join([machine(), "", HEAD, *found]), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
