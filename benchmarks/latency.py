"""Time of one 512x512 16-bit frame through a running gateway, by step, with and without TTA.

.venv/bin/nuclei serve
.venv/bin/python benchmarks/latency.py
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from nuclei.client import DEFAULT_ADDRESS, Client
from nuclei.images import Frame, read_frame

EXAMPLE = Path(__file__).parents[1] / "examples" / "fluorescence_16bit.tif"
SIDE_PX = 512
REPEATS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default=DEFAULT_ADDRESS, help="host:port of the gateway")
    arguments = parser.parse_args()
    frame = Frame(np.ascontiguousarray(read_frame(EXAMPLE).pixels[:SIDE_PX, :SIDE_PX]))
    table = Table("model", "nuclei", "p50 ms", "p95 ms", "of which, p50 ms")
    with Client(arguments.address) as client:
        for tta in (False, True):
            client.segment(frame, tta=tta)
            total_ms, results = [], []
            for _ in range(REPEATS):
                started = time.perf_counter()
                results.append(client.segment(frame, tta=tta))
                total_ms.append((time.perf_counter() - started) * 1000)
            steps = {
                step: np.median([result.stage_ms[step] for result in results])
                for step in results[0].stage_ms
            }
            p50, p95 = np.percentile(total_ms, [50, 95])
            shown = ", ".join(f"{step} {ms:.0f}" for step, ms in steps.items() if ms >= 1)
            name = f"{results[0].model} {results[0].version}{' with TTA' if tta else ''}"
            table.add_row(name, str(len(results[0].nuclei)), f"{p50:.0f}", f"{p95:.0f}", shown)
    Console().print(table)


if __name__ == "__main__":
    main()
