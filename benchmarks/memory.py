"""Memory of the service while it segments frames of every size, sent in every way.

.venv/bin/python benchmarks/memory.py                (fifteen minutes)
.venv/bin/python benchmarks/memory.py --sides 2048
.venv/bin/python benchmarks/memory.py --sides 16384 --ways page

Prints the peaks of the gateway, and of the gateway and its decoders together, read every 20 ms;
the estimate of what segmenting the frame takes; and the peaks of all parts. What processes share
counts once. The files of programs and libraries do not count: the kernel drops them when it must,
and shares them with whatever else runs.
"""

import argparse
import contextlib
import io
import re
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from served import Served, example_pixels, part_of, running_service

from nuclei.client import Client
from nuclei.inference.memory import memory_bytes

SIDES_PX = (16, 512, 2048, 8192, 16384)
TIMEOUT_S = 1800.0
SAMPLE_S = 0.02
IDLE_S = 2.0
MIB = 2**20

Send = Callable[[Served, NDArray[np.uint16]], int]


def raw_over_grpc(served: Served, pixels: NDArray[np.uint16]) -> int:
    with Client(served.grpc_address) as client:
        found = client.segment(pixels, outputs=["centroids", "labels"], timeout_s=TIMEOUT_S)
    return len(found.nuclei)


def file_over_grpc(served: Served, pixels: NDArray[np.uint16]) -> int:
    with Client(served.grpc_address) as client:
        found = client.segment(tiff(pixels), outputs=["centroids"], timeout_s=TIMEOUT_S)
    return len(found.nuclei)


def file_over_http(served: Served, pixels: NDArray[np.uint16]) -> int:
    url = f"{served.http_url}/v1/segment"
    answer = httpx.post(url, content=tiff(pixels), params={"format": "csv"}, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return int(answer.headers["x-nuclei-count"])


def outlines_over_http(served: Served, pixels: NDArray[np.uint16]) -> int:
    """As the web page does, which leaves some of the nuclei out of what it downloads."""
    url, form = f"{served.http_url}/v1/segment", {"discard": "1-3"}
    options: dict[str, str | float] = {"format": "geojson", "timeout_s": TIMEOUT_S}
    files = {"file": ("frame.tif", io.BytesIO(tiff(pixels)))}
    with httpx.stream(
        "POST", url, files=files, data=form, params=options, timeout=TIMEOUT_S
    ) as answer:
        if answer.is_error:
            answer.read()
            sys.exit(answer.text)
        for _ in answer.iter_bytes():
            pass
        return int(answer.headers["x-nuclei-count"])


WAYS: dict[str, tuple[str, Send]] = {
    "raw": ("raw, gRPC", raw_over_grpc),
    "grpc": ("TIFF, gRPC", file_over_grpc),
    "http": ("TIFF, HTTP", file_over_http),
    "page": ("TIFF, HTTP form, outlines", outlines_over_http),
}


def tiff(pixels: NDArray[np.uint16]) -> bytes:
    """A TIFF without compression, which is the largest file of these pixels."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels)
    return file.getvalue()


class Peaks:
    """The most memory of each part inside a `with` block.

    Attributes:
        mib: by part; "pixels" is the gateway and its decoders together.
        processes: the number of each part's, at the last look.
    """

    def __init__(self, served: Served) -> None:
        self._root = psutil.Process(served.pid)
        self._ended = threading.Event()
        self.mib: dict[str, float] = defaultdict(float)
        self.processes: Counter[str] = Counter()

    def __enter__(self) -> "Peaks":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        ended = False
        while not ended:  # also read once after the end: a small frame takes less than the wait
            ended = self._ended.wait(SAMPLE_S)
            self._look()

    def _look(self) -> None:
        now: dict[str, float] = defaultdict(float)
        self.processes = Counter()
        for process in [self._root, *self._root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):  # decoders come and go
                part = part_of(process)
                now[part] += _mib(process.pid)
                self.processes[part] += 1
        now["pixels"] = now["gateway"] + now["decoders"]
        for part, mib in now.items():
            self.mib[part] = max(self.mib[part], mib)


def _mib(pid: int) -> float:
    """Proportional set size of a process without files, MiB."""
    kib = dict(re.findall(r"(\w+): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text()))
    return (int(kib["Pss_Anon"]) + int(kib["Pss_Shmem"])) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES_PX, help="pixels")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="how sent")
    arguments = parser.parse_args()
    frames = Table(
        "frame, 16 bit", "sent as", "nuclei", "s", "gateway MiB", "and decoders", "estimate"
    )
    with (
        running_service(NUCLEI_DEFAULT_TIMEOUT_S=str(TIMEOUT_S)) as served,
        Console().status("") as status,
    ):
        with Peaks(served) as idle:
            time.sleep(IDLE_S)
        most = dict(idle.mib)
        for side in arguments.sides:
            pixels = example_pixels(side)
            for way, send in map(WAYS.__getitem__, arguments.ways):
                status.update(f"{side} x {side}, {way}")
                started = time.perf_counter()
                with Peaks(served) as peaks:
                    nuclei = send(served, pixels)
                seconds = time.perf_counter() - started
                most = {part: max(most[part], mib) for part, mib in peaks.mib.items()}
                estimate = memory_bytes(side, side, 1, 2) / MIB
                shown = (peaks.mib["gateway"], peaks.mib["pixels"], estimate)
                figures = (f"{seconds:.1f}", *(f"{mib:.0f}" for mib in shown))
                frames.add_row(f"{side} x {side}", way, str(nuclei), *figures)
    Console().print(frames, parts(idle, most))


def parts(idle: Peaks, most: dict[str, float]) -> Table:
    table = Table("part", "processes", "MiB before the first frame", "at most")
    for part, processes in idle.processes.items():
        table.add_row(part, str(processes), f"{idle.mib[part]:.0f}", f"{most[part]:.0f}")
    return table


if __name__ == "__main__":
    main()
