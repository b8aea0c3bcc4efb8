"""The service while others use the processor: a table of docs/performance.md.

    .venv-train/bin/python benchmarks/busy.py

One caller sends frames, while other processes of the same priority compute all the time. Beside the
times stands the part of the processor that is left to the service's threads when all get the same:
its network computes in one thread per core.
"""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from load import unary_load
from served import example_pixels, request_of, running_service

SIDES_PX = (512, 1024)
OTHERS = (0, 1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement [10]")
    seconds = parser.parse_args().seconds
    cores = len(os.sched_getaffinity(0))
    print("| other processes | left | frame | p50, ms | p95, ms | times idle |")
    print("|---:|---:|---|---:|---:|---:|")
    with running_service() as served:
        idle: dict[int, float] = {}
        for count in OTHERS:
            with computing(count):
                for side in SIDES_PX:
                    request = request_of(example_pixels(side))
                    load = asyncio.run(unary_load(served.grpc_address, request, 1, seconds))
                    p50, p95 = load.percentile_ms(50), load.percentile_ms(95)
                    idle.setdefault(side, p50)
                    left = cores / (cores + count)
                    print(
                        f"| {count} | {left:.2f} | {side} x {side} | {p50:.0f} | {p95:.0f} "
                        f"| {p50 / idle[side]:.1f} |"
                    )


@contextmanager
def computing(count: int) -> Iterator[None]:
    """So many processes that compute, one thread each, until the block ends."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main()
