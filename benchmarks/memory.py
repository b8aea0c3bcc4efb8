"""Resident memory of the gateway while it segments frames of every size, sent in every way.

.venv/bin/python benchmarks/memory.py                (ten minutes)
.venv/bin/python benchmarks/memory.py --sides 2048

Prints the peak of the gateway's process, without its decoders, read every 20 ms; and the estimate
of what segmenting the frame takes.
"""

import argparse
import io
import threading
import time
from collections.abc import Callable

import httpx
import numpy as np
import psutil
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from served import Served, example_pixels, running_service

from nuclei.client import Client
from nuclei.inference.memory import memory_bytes

SIDES_PX = (16, 512, 2048, 8192, 16384)
TIMEOUT_S = 900.0
SAMPLE_S = 0.02
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


def tiff(pixels: NDArray[np.uint16]) -> bytes:
    """A TIFF without compression, which is the largest file of these pixels."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels)
    return file.getvalue()


class Peak:
    """The most memory of the gateway inside a `with` block, MiB."""

    def __init__(self, served: Served) -> None:
        processes = psutil.Process(served.pid).children(recursive=True)
        (self._gateway,) = (p for p in processes if "serving.gateway" in p.cmdline())
        self._ended = threading.Event()
        self.mib = 0.0

    def __enter__(self) -> "Peak":
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
            self.mib = max(self.mib, self._gateway.memory_info().rss / MIB)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES_PX, help="pixels")
    arguments = parser.parse_args()
    table = Table("frame, 16 bit", "sent as", "nuclei", "s", "gateway MiB", "estimate")
    ways: dict[str, Send] = {
        "raw, gRPC": raw_over_grpc,
        "TIFF, gRPC": file_over_grpc,
        "TIFF, HTTP": file_over_http,
    }
    timeout = {"NUCLEI_DEFAULT_TIMEOUT_S": str(TIMEOUT_S)}
    with running_service(**timeout) as served, Console().status("") as status:
        for side in arguments.sides:
            pixels = example_pixels(side)
            for way, send in ways.items():
                status.update(f"{side} x {side}, {way}")
                started = time.perf_counter()
                with Peak(served) as peak:
                    nuclei = send(served, pixels)
                seconds = time.perf_counter() - started
                estimate = memory_bytes(side, side, 1, 2) / MIB
                figures = (seconds, peak.mib, estimate)
                shown = (f"{seconds:.1f}", *(f"{figure:.0f}" for figure in figures[1:]))
                table.add_row(f"{side} x {side}", way, str(nuclei), *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
