"""Latency of two running services, for example of two versions, measured in turns.

    .venv/bin/python benchmarks/paired.py localhost:50051 localhost:50061

One caller sends the same frame to one and the other. Prints the medians, and the median of the
second's time over the first's of each turn with its 95 % interval: other work on the machine slows
both of a turn alike.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from served import EXAMPLE, example_pixels

from nuclei.client import Client
from nuclei.evaluation.statistics import statistic_interval

Call = Callable[[Client], object]
# Before the first turn that counts.
WARM_UP = 3
LARGE_PX = 2048


def calls() -> dict[str, Call]:
    """What is sent, by its name."""

    def segmenting(frame: NDArray[np.uint16] | bytes) -> Call:
        return lambda client: client.segment(frame)

    png, tiff = EXAMPLE.with_name("fluorescence.png"), EXAMPLE
    return {
        "GetServerInfo": Client.server_info,
        "raw, 256 x 256": segmenting(example_pixels(256)),
        "raw, 512 x 512": segmenting(example_pixels(512)),
        "PNG, 360 x 360": segmenting(png.read_bytes()),
        "TIFF, 520 x 696": segmenting(tiff.read_bytes()),
        "raw, 1024 x 1024": segmenting(example_pixels(1024)),
        "raw, 1024 x 1360": segmenting(np.ascontiguousarray(example_pixels(1360)[:1024])),
        f"raw, {LARGE_PX} x {LARGE_PX}": segmenting(example_pixels(LARGE_PX)),
    }


def turns(call: Call, clients: tuple[Client, Client], count: int) -> NDArray[np.float64]:
    """Times of so many turns, milliseconds [count, 2]; who is first alternates."""
    spent = np.empty((WARM_UP + count, 2))
    for turn in range(len(spent)):
        for who in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            call(clients[who])
            spent[turn, who] = (time.perf_counter() - started) * 1e3
    return spent[WARM_UP:]


def median_of(ratios: NDArray[np.float64], chosen: NDArray[np.intp]) -> float:
    return float(np.median(ratios[chosen]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", help="host:port of a gRPC server")
    parser.add_argument("second", help="of the other")
    parser.add_argument("--turns", type=int, default=100, help="a tenth for the largest [100]")
    arguments = parser.parse_args()
    table = Table("call", "turns", "first, ms", "second, ms", "second / first", "95 %")
    with Client(arguments.first) as first, Client(arguments.second) as second:
        for name, call in track(calls().items(), "Measuring", transient=True):
            count = max(2, arguments.turns // (10 if str(LARGE_PX) in name else 1))
            spent = turns(call, (first, second), count)
            ratios = spent[:, 1] / spent[:, 0]
            low, high = statistic_interval(count, partial(median_of, ratios))
            medians = (f"{median:.1f}" for median in np.median(spent, axis=0))
            table.add_row(
                name, str(count), *medians, f"{np.median(ratios):.3f}", f"{low:.3f} to {high:.3f}"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
