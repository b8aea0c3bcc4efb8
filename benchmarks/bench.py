"""What the service reaches on this machine, against the limit of the same run.

make bench                 writes benchmarks/RESULTS.md

On a GPU, where Triton's environment has an onnxruntime that is built for CUDA:

.venv/bin/python benchmarks/bench.py --sides 512 2048 --callers 1 4 16 --gpu tensorrt-fp16 \
    --set NUCLEI_TRITON_PIXELS=16777216 --out gpu.md

The limit is one process with nothing around it: the same network on the same threads, then the same
post-processing, one frame after the other. It is measured before and after each load, because the
machine's own speed changes by the minute.
"""

import argparse
import asyncio
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import numpy as np
from load import Load, stream_load, unary_load
from rich.console import Console
from rich.progress import track
from served import REPOSITORY, ROOT, example_pixels, request_of, running_service

from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import intensity_range
from nuclei.inference import pipeline
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.postprocessing.measurement import measure
from nuclei.quality.judgement import group_of

SIDES_PX = (512, 2048)
CALLERS = (1, 4, 16)
WAYS = {"unary": unary_load, "stream": stream_load}
LIMIT_S = 4.0
WARM_UP_S = 5.0
TRITON_PYTHON = ROOT / ".venv-triton" / "bin" / "python"
IN_PROCESS = Path(__file__).with_name("network_in_process.py")

TENSORRT = (
    'gpu_execution_accelerator {{ name: "tensorrt" '
    'parameters {{ key: "precision_mode" value: "{}" }} }}'
)
# What runs the network on a GPU in place of CUDA, as its configuration names it.
GPU_ACCELERATORS = {
    "tensorrt-fp32": TENSORRT.format("FP32"),
    "tensorrt-fp16": TENSORRT.format("FP16"),
}

PAGE = """# Results

`make bench`, {date}, {machine}. Triton, the gateway and the callers share its cores. Frames are
16-bit, times milliseconds. The machine's own speed changes by the minute: compare within a row.

A caller sends its next frame when the one before is answered; a stream has as many in flight. "One
process" is the same network on the same threads and the same post-processing, with nothing around
them, one frame after the other, measured before and after the load of that row; "overlap" is what
it would reach if the post-processing of one frame, on one thread, ran beside the network of the
next and neither slowed the other.

| frame | at once | way | frames/s | one process | of that | of overlap | p50 | p95 | p99 | failed |
|---|---|---|---|---|---|---|---|---|---|---|
{loads}

## Where the time goes

One caller, unary, medians. "Added" is what the service takes beyond one process.

| frame | steps | all | one process: network + post-processing | added |
|---|---|---|---|---|
{steps}
"""


@dataclass(frozen=True)
class Limit:
    """Times of one frame in one process, milliseconds.

    Attributes:
        network_ms: (mean, median) of preprocessing and network, on all threads.
        post_ms: (mean, median) of tiling, watershed and features, on one thread.
    """

    network_ms: tuple[float, float]
    post_ms: tuple[float, float]

    @property
    def frames_per_s(self) -> float:
        return 1e3 / (self.network_ms[0] + self.post_ms[0])

    @property
    def overlapped_per_s(self) -> float:
        return 1e3 / (self.network_ms[0] + self.post_ms[0] / (os.cpu_count() or 1))

    @property
    def median_ms(self) -> float:
        return self.network_ms[1] + self.post_ms[1]


@dataclass(frozen=True)
class Row:
    """One load, and the limit before and after it."""

    side: int
    way: str
    callers: int
    load: Load
    limits: tuple[Limit, Limit]

    @property
    def limit(self) -> Limit:
        """The mean of the two."""
        before, after = self.limits
        return Limit(
            _mean(before.network_ms, after.network_ms), _mean(before.post_ms, after.post_ms)
        )

    def of_load(self) -> str:
        limit, load = self.limit, self.load
        times = " | ".join(f"{load.percentile_ms(percent):.0f}" for percent in (50, 95, 99))
        return (
            f"| {self.side} x {self.side} | {self.callers} | {self.way} "
            f"| {load.frames_per_s:.2f} | {limit.frames_per_s:.2f} "
            f"| {load.frames_per_s / limit.frames_per_s:.2f} "
            f"| {load.frames_per_s / limit.overlapped_per_s:.2f} | {times} | {load.failed} |"
        )

    def of_steps(self) -> str:
        steps = ", ".join(f"{name} {ms:.1f}" for name, ms in self.load.stage_p50_ms().items())
        total, limit = self.load.percentile_ms(50), self.limit
        return (
            f"| {self.side} x {self.side} | {steps} | {total:.1f} "
            f"| {limit.network_ms[1]:.1f} + {limit.post_ms[1]:.1f} "
            f"| {total - limit.median_ms:.1f} |"
        )


class InProcess:
    """Measures the limit for frames of one side."""

    def __init__(self, requests: IO[str], answers: IO[str], side: int) -> None:
        """Takes the input and output of `network_in_process.py`, and the frames' side in pixels."""
        self._requests, self._answers, self._side = requests, answers, side
        self._frame = Frame(example_pixels(side)[:, :, None])
        engine = LocalEngine(REPOSITORY)
        self._found = asyncio.run(pipeline.predict(self._frame, engine, engine.find("unet")))

    def limit(self) -> Limit:
        """Measure it now."""
        self._requests.write(f"{self._side} {LIMIT_S}\n")
        self._requests.flush()
        mean_ms, median_ms = map(float, self._answers.readline().split())
        return Limit((mean_ms, median_ms), self._post_ms())

    def _post_ms(self) -> tuple[float, float]:
        contract, accumulator = self._found.served.contract, self._found.accumulator
        parameters = contract.parameters[group_of(self._frame.pixels)]
        seconds: list[float] = []
        while sum(seconds) < LIMIT_S / 4:
            started = time.perf_counter()
            intensity_range(self._frame.pixels)
            labels, _ = accumulator.label(parameters, lambda: None)
            measure(labels, self._frame.pixels, accumulator.foreground)
            seconds.append(time.perf_counter() - started)
        return float(np.mean(seconds)) * 1e3, float(np.median(seconds)) * 1e3


@contextmanager
def network_in_process(repository: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """Its input and output."""
    with subprocess.Popen(
        [TRITON_PYTHON, IN_PROCESS, "--repository", repository],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdin, process.stdout
        process.stdin.close()


@contextmanager
def accelerated(accelerator: str) -> Iterator[Path]:
    """A model repository whose network runs so on a GPU: our own where nothing is asked for."""
    if not accelerator:
        yield REPOSITORY
        return
    with TemporaryDirectory() as scratch:
        copy = shutil.copytree(REPOSITORY, Path(scratch) / "models")
        (config,) = copy.glob("unet_network.*/config.pbtxt")
        block = "execution_accelerators {"
        added = f"{block} {GPU_ACCELERATORS[accelerator]}"
        config.write_text(config.read_text().replace(block, added, 1))
        yield copy


def rows(
    address: str,
    pipes: tuple[IO[str], IO[str]],
    sides: Sequence[int],
    at_once: Sequence[int],
    seconds: float,
) -> Iterator[Row]:
    """Each load, between two measurements of the limit."""
    for side in sides:
        in_process, request = InProcess(*pipes, side), request_of(example_pixels(side))
        asyncio.run(unary_load(address, request, 2, WARM_UP_S))
        before = in_process.limit()
        for callers in at_once:
            for way, run in WAYS.items():
                load = asyncio.run(run(address, request, callers, seconds))
                after = in_process.limit()
                yield Row(side, way, callers, load, (before, after))
                before = after


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15, help="of each load [15]")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES_PX, help="of frames, pixels")
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS, help="at once")
    parser.add_argument("--gpu", default="", choices=GPU_ACCELERATORS, help="in place of CUDA")
    parser.add_argument("--set", nargs="+", default=[], metavar="NUCLEI_X=Y", help="settings")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    arguments = parser.parse_args()
    settings = dict(one.split("=", 1) for one in arguments.set)
    total = len(arguments.sides) * len(arguments.callers) * len(WAYS)
    with (
        accelerated(arguments.gpu) as repository,
        running_service(repository, **settings) as served,
        network_in_process(repository) as pipes,
    ):
        loads = arguments.sides, arguments.callers, arguments.seconds
        measured = rows(served.grpc_address, pipes, *loads)
        found = list(track(measured, "Measuring", total, transient=True))
    text = PAGE.format(
        date=date.today(),
        machine=machine(),
        loads="\n".join(row.of_load() for row in found),
        steps="\n".join(r.of_steps() for r in found if (r.way, r.callers) == ("unary", 1)),
    )
    arguments.out.write_text(text)
    Console().print(text, markup=False)


def _mean(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


def machine() -> str:
    """Its processors, memory and system."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(names)} x {names[0]}, {memory_gib:.0f} GiB, {platform.system()}"


if __name__ == "__main__":
    main()
