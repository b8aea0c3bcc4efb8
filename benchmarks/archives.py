"""Archives, slides and clusters: what `nuclei segment` takes of memory and time.

.venv/bin/python benchmarks/archives.py archive --frames 10000
.venv/bin/python benchmarks/archives.py slide --side 16384
.venv-train/bin/python benchmarks/archives.py dask --frames 200 --frame-side 512

`archive` segments a folder of small frames and a stack of as many, and prints the memory of the
process (RSS without what is mapped from files) in tenths of the run. `slide` does the same for one
large plane. `dask` segments a time series by one process on one processor and by two workers on
one each, in turn, and prints how much of twice the speed they reach, start included. All with
--local; frames are parts of examples/.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import tifffile
from google.protobuf import text_format
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from nuclei.imaging.images import read_frame
from nuclei.inference.model_config import THREADS_PARAMETER, read_model_config

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from nuclei.cli.main import main; main()", "segment", "--local"]
SAMPLE_S = 0.5
PARTS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("archive", "slide", "dask"))
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--frame-side", type=int, default=128)
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.what == "archive":
            print_memory(archives(folder, arguments.frames, arguments.frame_side))
        elif arguments.what == "slide":
            print_memory({"slide": slide(folder, arguments.side)})
        else:
            compare_workers(folder, arguments.frames, arguments.frame_side, arguments.repeats)


def archives(folder: Path, frames: int, side: int) -> dict[str, list[str]]:
    """A folder of single frames, and a time series; the arguments that segment each."""
    single = folder / "frames"
    single.mkdir()
    series = np.stack([part(side, number) for number in range(frames)])
    for number, pixels in enumerate(series):
        tifffile.imwrite(single / f"{number:05d}.tif", pixels)
    tifffile.imwrite(
        folder / "series.ome.tif",
        series,
        metadata={"axes": "TYX"},
        photometric="minisblack",
    )
    saved = ["--save", "csv"]
    return {
        "folder": [str(single), "--out", str(folder / "1"), *saved],
        "series": [
            str(folder / "series.ome.tif"),
            "--t",
            "all",
            "--out",
            str(folder / "2"),
            *saved,
        ],
    }


def slide(folder: Path, side: int) -> list[str]:
    """A tiled grey TIFF."""
    pixels = read_frame(ROOT / "examples" / "fluorescence.png").pixels[:, :, 0]
    times = [-(-side // length) for length in pixels.shape]
    tifffile.imwrite(
        folder / "slide.tif",
        np.tile(pixels, times)[:side, :side],
        tile=(512, 512),
        compression="zlib",
    )
    saved = ["--save", "labels.tif,overlay.png,csv"]
    return [str(folder / "slide.tif"), "--out", str(folder / "out"), *saved]


def part(side: int, number: int) -> NDArray[np.uint8]:
    """A part of a real frame, a different one for each number."""
    frame = read_frame(ROOT / "examples" / "fluorescence.png").pixels[:, :, 0]
    pixels = np.tile(frame, [side // length + 1 for length in frame.shape])
    random = np.random.default_rng(number)
    y, x = (int(random.integers(0, length - side)) for length in pixels.shape)
    return np.asarray(pixels[y : y + side, x : x + side], np.uint8)


def print_memory(calls: dict[str, list[str]]) -> None:
    for name, call in calls.items():
        table = Table("", "seconds", "peak MB", *(f"{n + 1}/{PARTS}" for n in range(PARTS)))
        started = time.perf_counter()
        memory = memory_of([*COMMAND, *call])
        seconds = time.perf_counter() - started
        parts = [max(one) for one in np.array_split(memory, PARTS)]
        table.add_row(name, f"{seconds:.0f}", f"{max(memory):.0f}", *(f"{mb:.0f}" for mb in parts))
        Console(width=160).print(table)


def memory_of(command: list[str]) -> list[float]:
    """MB of a process twice a second, without pages of files."""
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    memory = []
    while process.poll() is None:
        try:
            found = process.memory_info()
        except psutil.NoSuchProcess:
            break
        memory.append((found.rss - found.shared) / 1e6)
        time.sleep(SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return memory


def compare_workers(folder: Path, frames: int, side: int, repeats: int) -> None:
    """One process and two workers of a cluster that is there, in turn, a processor for each."""
    from distributed import LocalCluster

    call = [*archives(folder, frames, side)["series"], "--repository", str(one_thread(folder))]
    ways: dict[str, list[str]] = {"one process": [], "two workers": []}
    seconds, cpu_seconds = ({name: list[float]() for name in ways} for _ in range(2))
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        workers = [psutil.Process(worker.process.pid) for worker in cluster.workers.values()]
        for processor, worker in enumerate(workers):
            worker.cpu_affinity([processor])
        ways["two workers"] = ["--dask", cluster.scheduler_address]
        warm_up(call, ways["two workers"], folder)
        for number in range(repeats):
            for name, way in ways.items():
                out = ["--out", str(folder / f"{name}{number}")]
                started, used = time.perf_counter(), cpu_of(workers)
                on_one = ["taskset", "-c", "0"] * (not way)
                command = [*on_one, *COMMAND, *call, *out, *way]
                subprocess.run(command, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - started)
                cpu_seconds[name].append(cpu_of(workers) - used)
    one, two = (median(times) for times in seconds.values())
    cpu_one, cpu_two = (median(times) for times in cpu_seconds.values())
    Console(width=160).print(
        f"{frames} frames of {side} x {side}: {one:.1f} s by one process, {two:.1f} s by two "
        f"workers, {one / two:.2f} times as fast: {one / two / 2:.0%} of two processors. Of "
        f"processors they took {cpu_one:.1f} and {cpu_two:.1f} s"
    )


def one_thread(folder: Path) -> Path:
    """A repository whose models ask for one thread: onnxruntime's own are not bound by taskset."""
    repository = shutil.copytree(ROOT / "model_repository", folder / "models")
    for path in repository.glob("*/config.pbtxt"):
        config = read_model_config(path)
        if not config.ensemble_scheduling.step:
            config.parameters[THREADS_PARAMETER].string_value = "1"
            path.write_text(text_format.MessageToString(config))
    return repository


def cpu_of(workers: Iterable[psutil.Process]) -> float:
    """Processor time, s, of this process, which schedules, its commands, and the workers."""
    mine = os.times()
    times = [worker.cpu_times() for worker in workers]
    return sum([*mine[:4], *(one.user + one.system for one in times)])


def warm_up(call: list[str], way: list[str], folder: Path) -> None:
    """Let the workers import and compile."""
    command = [*COMMAND, *call, "--out", str(folder / "warm"), "--t", "0-9", *way]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
