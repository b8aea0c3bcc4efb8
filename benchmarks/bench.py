"""What the service reaches on this machine, against the limit of the same run.

make bench                 writes benchmarks/RESULTS.md

The limit: the same network in one process on the same threads, plus the same post-processing, with
nothing around them. A frame then takes the network's time on all threads and the post-processing's
time divided by the threads, as frames are post-processed side by side.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from load import Load, stream_load, unary_load
from rich.console import Console
from served import ROOT, example_pixels, request_of, running_service

from nuclei import pipeline
from nuclei.images import Frame
from nuclei.local import LocalEngine
from nuclei.measurement import measure
from nuclei.watershed import label_nuclei

SIDES_PX = (512, 2048)
CALLERS = (1, 4, 16)
REPEATS = {512: 30, 2048: 5}
TRITON_PYTHON = ROOT / ".venv-triton" / "bin" / "python"
IN_PROCESS = Path(__file__).with_name("network_in_process.py")


PAGE = """# Results

`make bench`, {date}, {machine}. Triton, the gateway and the callers share its cores. Frames are
16-bit, times milliseconds. Compare within this run: on another day the machine has another speed.

## In one process

The same ONNX files with the same options, and the same post-processing, with nothing around them;
mean of before and after the loads below. The limit keeps all threads busy all the time.

| frame | network, all threads | post-processing, one thread | limit, frames/s | one frame |
|---|---|---|---|---|
{limits}

## Through the gateway

A caller sends its next frame when the one before is answered; a stream has as many in flight.

| frame | at once | way | frames/s | of the limit | p50 | p95 | p99 | failed |
|---|---|---|---|---|---|---|---|---|
{loads}

## Where the time goes

One caller, unary, median of each step; the last column is what the service adds to one frame in
one process.

| frame | steps | all | added |
|---|---|---|---|
{steps}
"""


@dataclass(frozen=True)
class Limit:
    """What one process could do at most, of one frame size.

    Attributes:
        network_ms: time of the network on all threads, milliseconds.
        post_ms: time of the post-processing on one thread, milliseconds.
        threads: number of threads.
    """

    network_ms: float
    post_ms: float
    threads: int

    @property
    def frames_per_s(self) -> float:
        return 1e3 / (self.network_ms + self.post_ms / self.threads)

    @property
    def latency_ms(self) -> float:
        return self.network_ms + self.post_ms


Limits = dict[int, Limit]
Loads = dict[tuple[int, str, int], Load]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="of each load [20]")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    arguments = parser.parse_args()
    console = Console()
    with console.status("In one process"):
        before = limits()
    with running_service() as served:
        loads: Loads = {}
        for side in SIDES_PX:
            request = request_of(example_pixels(side))
            for callers in CALLERS:
                for way, run in (("unary", unary_load), ("stream", stream_load)):
                    with console.status(f"{side} x {side}, {way}, {callers} at once"):
                        load = run(served.grpc_address, request, callers, arguments.seconds)
                        loads[side, way, callers] = asyncio.run(load)
    with console.status("In one process"):
        after = limits()
    text = report(before, after, loads)
    arguments.out.write_text(text)
    console.print(text, markup=False)


def limits() -> Limits:
    """The limit for frames of each side."""
    run = subprocess.run([TRITON_PYTHON, IN_PROCESS], check=True, capture_output=True, text=True)
    network_ms = json.loads(run.stdout)
    threads = os.cpu_count() or 1
    return {
        side: Limit(network_ms[str(side)], postprocessing_ms(side), threads) for side in SIDES_PX
    }


def postprocessing_ms(side: int) -> float:
    """Median time from the maps of a frame to its nuclei, on one thread, milliseconds."""
    frame = Frame(example_pixels(side)[:, :, None])
    found = asyncio.run(pipeline.predict(frame, LocalEngine(ROOT / "model_repository"), "unet"))
    foreground = found.maps[found.contract.maps.index("foreground")]
    seconds = []
    for _ in range(REPEATS[side]):
        started = time.perf_counter()
        labels = label_nuclei(found.maps, found.contract.watershed)
        measure(labels, frame.pixels, foreground)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) * 1e3


def report(before: Limits, after: Limits, loads: Loads) -> str:
    """The results as a Markdown page."""
    limit = {side: _mean(before[side], after[side]) for side in SIDES_PX}
    return PAGE.format(
        date=date.today(),
        machine=_machine(),
        limits="\n".join(
            f"| {side} x {side} | {found.network_ms:.1f} | {found.post_ms:.1f} "
            f"| {found.frames_per_s:.2f} | {found.latency_ms:.1f} |"
            for side, found in limit.items()
        ),
        loads="\n".join(
            _load_row(side, way, callers, load, limit[side])
            for (side, way, callers), load in loads.items()
        ),
        steps="\n".join(
            _steps_row(side, loads[side, "unary", 1], limit[side]) for side in SIDES_PX
        ),
    )


def _load_row(side: int, way: str, callers: int, load: Load, limit: Limit) -> str:
    share = load.frames_per_s / limit.frames_per_s
    times = " | ".join(f"{load.percentile_ms(percent):.0f}" for percent in (50, 95, 99))
    return (
        f"| {side} x {side} | {callers} | {way} | {load.frames_per_s:.2f} | {share:.2f} "
        f"| {times} | {load.failed} |"
    )


def _steps_row(side: int, load: Load, limit: Limit) -> str:
    steps = ", ".join(f"{name} {ms:.1f}" for name, ms in load.stage_p50_ms().items())
    total = load.percentile_ms(50)
    return f"| {side} x {side} | {steps} | {total:.1f} | {total - limit.latency_ms:.1f} |"


def _mean(one: Limit, other: Limit) -> Limit:
    return Limit(
        (one.network_ms + other.network_ms) / 2, (one.post_ms + other.post_ms) / 2, one.threads
    )


def _machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(names)} x {names[0]}, {memory_gib:.0f} GiB, {platform.system()}"


if __name__ == "__main__":
    main()
