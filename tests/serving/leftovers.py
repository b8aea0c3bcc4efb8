"""What servers may leave behind."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes that still run; zombies do not count."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def regions(triton_metrics_port: int, memory: Path = Path("/dev/shm")) -> set[str]:
    """Names of the regions of shared memory of the Triton with this port of metrics."""
    return {path.name for path in memory.glob(f"nuclei_{triton_metrics_port}_*")}
