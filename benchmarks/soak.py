"""A service under steady load: memory, threads, file handles and shared memory over time.

.venv-train/bin/python benchmarks/soak.py --minutes 60

First measures how many frames a second the service takes with this mix of callers, then sends 80%
of that at a steady rate: frames of 512 x 512 and 2048 x 2048 pixels, unary, by HTTP and on streams,
some with TTA, some unreadable, some whose caller hangs up. Writes soak.csv and soak.png.
"""

import argparse
import asyncio
import contextlib
import csv
import io
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import tifffile
from rich.console import Console
from rich.progress import track
from rich.table import Table
from served import ROOT, Served, example_pixels, part_of, request_of, running_service

from nuclei.v1 import segmentation_pb2 as pb
from nuclei.v1.segmentation_pb2_grpc import SegmentationStub

SAMPLE_S = 10.0
WARM_UP_S = 60.0
CALIBRATION_S = 60.0
CALLERS = 4
MOST_IN_FLIGHT = 32
TIMEOUT_S = 60.0
ROLES = ("gateway", "decoders", "triton", "stubs", "others")

Send = Callable[[], Awaitable[str]]


class Callers:
    """Callers of every kind; each sends one frame and returns its outcome."""

    def __init__(self, served: Served) -> None:
        pixels = example_pixels(512)
        self._small = request_of(pixels)
        self._large = request_of(example_pixels(2048), outputs=[pb.OUTPUT_CENTROIDS])
        self._averaged = request_of(pixels, tta=True)
        self._bad = pb.SegmentRequest(frame=pb.Frame(encoded=b"no image"))
        file = io.BytesIO()
        tifffile.imwrite(file, pixels)
        self._file = file.getvalue()
        self._channel = grpc.aio.insecure_channel(
            served.grpc_address, (("grpc.max_send_message_length", -1),)
        )
        self._stub: Any = SegmentationStub(self._channel)
        self._http = httpx.AsyncClient(base_url=served.http_url, timeout=TIMEOUT_S)

    async def close(self) -> None:
        await self._http.aclose()
        await self._channel.close()

    def mix(self) -> Iterator[Send]:
        """The next caller to send, without end."""
        kinds = [self._unary] * 8 + [self._stream] * 4 + [self._by_http] * 4
        kinds += [self._large_frame] * 2 + [self._with_tta, self._unreadable, self._leaving]
        chance = random.Random(0)
        while True:
            yield from chance.sample(kinds, len(kinds))

    async def _call(self, request: pb.SegmentRequest) -> str:
        try:
            await self._stub.Segment(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    async def _unary(self) -> str:
        return await self._call(self._small)

    async def _large_frame(self) -> str:
        return await self._call(self._large)

    async def _with_tta(self) -> str:
        return await self._call(self._averaged)

    async def _unreadable(self) -> str:
        code = await self._call(self._bad)
        return "refused as it should be" if code == "INVALID_ARGUMENT" else code

    async def _leaving(self) -> str:
        call = self._stub.Segment(self._small, timeout=TIMEOUT_S)
        await asyncio.sleep(0.02)
        call.cancel()
        return "left"

    async def _stream(self) -> str:
        frame = pb.SegmentStreamRequest(frame=pb.StreamFrame(request=self._small))
        try:
            answers = [a async for a in self._stub.SegmentStream(iter([frame]), timeout=TIMEOUT_S)]
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK" if answers[0].HasField("result") else answers[0].error.name

    async def _by_http(self) -> str:
        try:
            response = await self._http.post("/v1/segment", content=self._file)
        except httpx.HTTPError as error:
            return type(error).__name__
        return "OK" if response.status_code == 200 else str(response.status_code)


async def frames_per_s(callers: Callers) -> float:
    """How many frames a second the service takes from this mix of callers."""
    mix, done, started = callers.mix(), 0, time.perf_counter()

    async def call() -> None:
        nonlocal done
        while time.perf_counter() - started < CALIBRATION_S:
            await next(mix)()
            done += 1

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return done / (time.perf_counter() - started)


async def send_steadily(callers: Callers, per_s: float, seconds: float) -> Counter[str]:
    """Send frames at a rate; returns their outcomes."""
    outcomes: Counter[str] = Counter()
    running: set[asyncio.Task[None]] = set()

    async def note(send: Send) -> None:
        outcomes[await send()] += 1

    started = time.perf_counter()
    for number, send in enumerate(callers.mix()):
        due = number / per_s
        if due > seconds:
            break
        await asyncio.sleep(started + due - time.perf_counter())
        if len(running) >= MOST_IN_FLIGHT:
            outcomes["not sent, too many in flight"] += 1
            continue
        task = asyncio.create_task(note(send))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return outcomes


def sample(pid: int) -> dict[str, float]:
    """Memory (MB), threads and file handles of the service's processes; shared memory (MB)."""
    found: dict[str, float] = defaultdict(float)
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            role = part_of(process)
            # A page that processes share counts once.
            found[f"{role}_mb"] += process.memory_full_info().pss / 2**20
            found[f"{role}_threads"] += process.num_threads()
            found[f"{role}_files"] += process.num_fds()
    shared = [path.stat() for path in Path("/dev/shm").glob("nuclei_*")]
    found["shared_memory_mb"] = sum(stat.st_blocks * 512 for stat in shared) / 2**20
    found["shared_memory_regions"] = len(shared)
    return dict(found)


async def watch(pid: int, seconds: float) -> list[dict[str, float]]:
    """Samples, one every ten seconds; `minutes` is the time of each."""
    started = time.monotonic()
    samples: list[dict[str, float]] = []
    for number in itertools.count():
        due = number * SAMPLE_S
        if due > seconds:
            return samples
        await asyncio.sleep(max(0.0, started + due - time.monotonic()))
        samples.append({"minutes": (time.monotonic() - started) / 60, **sample(pid)})
    raise AssertionError


async def soak(served: Served, minutes: float, load: float) -> list[dict[str, float]]:
    console, callers = Console(), Callers(served)
    try:
        console.print(f"Measuring the highest rate of frames, {CALIBRATION_S:.0f} s")
        most = await frames_per_s(callers)
        per_s = load * most
        console.print(f"{most:.1f} frames/s at most; {per_s:.1f} frames/s for {minutes:g} min")
        seconds = minutes * 60
        outcomes, samples, _ = await asyncio.gather(
            send_steadily(callers, per_s, seconds), watch(served.pid, seconds), _show(seconds)
        )
    finally:
        await callers.close()
    console.print("answers:", ", ".join(f"{n} {name}" for name, n in outcomes.most_common()))
    return samples


async def _show(seconds: float) -> None:
    for _ in track(range(int(seconds)), "Soaking", transient=True):
        await asyncio.sleep(1)


def table(samples: list[dict[str, float]]) -> Table:
    """Each figure at the start (after the first minute), at the end, and its growth in an hour."""
    warm = [row for row in samples if row["minutes"] * 60 >= WARM_UP_S] or samples
    minutes = np.array([row["minutes"] for row in warm])
    shown = Table("", "first tenth", "last tenth", "growth per hour")
    tenth = max(1, len(warm) // 10)
    for name in sorted(warm[-1]):
        if name == "minutes":
            continue
        values = np.array([row.get(name, 0.0) for row in warm])
        slope = np.polyfit(minutes, values, 1)[0] * 60 if len(warm) > 1 else 0.0
        first, last = np.median(values[:tenth]), np.median(values[-tenth:])
        shown.add_row(name, f"{first:.1f}", f"{last:.1f}", f"{slope:+.1f}")
    return shown


def draw(samples: list[dict[str, float]], path: Path) -> None:
    """The curves as a picture."""
    from matplotlib import pyplot as plt

    minutes = [row["minutes"] for row in samples]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, (title, suffix) in zip(
        axes,
        (("resident memory, MB", "_mb"), ("threads", "_threads"), ("file handles", "_files")),
        strict=True,
    ):
        for role in (*ROLES, "shared_memory"):
            values = [row.get(role + suffix) for row in samples]
            if any(value is not None for value in values):
                axis.plot(minutes, values, label=role.replace("_", " "))
        axis.set(title=title, xlabel="minutes", ylim=(0, None))
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60, help="how long [60]")
    parser.add_argument("--load", type=float, default=0.8, help="part of the highest rate [0.8]")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder [docs]")
    arguments = parser.parse_args()
    with running_service() as served:
        samples = asyncio.run(soak(served, arguments.minutes, arguments.load))
    names = sorted({name for row in samples for name in row}, key=lambda n: (n != "minutes", n))
    with (arguments.out / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({n: round(v, 2) for n, v in row.items()} for row in samples)
    draw(samples, arguments.out / "soak.png")
    Console().print(table(samples))


if __name__ == "__main__":
    main()
