"""Time of the network in float32 and bfloat16 on processors with fewer instructions than this one.

    .venv-triton/bin/python benchmarks/instruction_sets.py

Runs the network of a repository as Triton's backend does, for one tile of 512 x 512 on all cores:
each way in a process of its own, which oneDNN's ONEDNN_MAX_CPU_ISA keeps from newer instructions,
all ways in turns. The caches and clocks are those of this processor. Prints medians, milliseconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

ROOT = Path(__file__).parents[1]
INSTRUCTION_SETS = {
    "AVX2": "AVX2",
    "AVX-512": "AVX512_CORE",
    "AVX-512 VNNI": "AVX512_CORE_VNNI",
    "AVX-512 BF16": "AVX512_CORE_BF16",
    "AMX": "AVX512_CORE_AMX",
}
PRECISIONS = ("f32", "bf16")
SIDE_PX = 512


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--turns", type=int, default=15, help="of all ways [15]")
    parser.add_argument("--answer", choices=PRECISIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    network = next(arguments.repository.glob("unet_network.*/*/model.onnx"))
    if arguments.answer:
        answer(network, arguments.answer)
        return
    ways = {
        (name, precision): started(arguments.repository, limit, precision)
        for name, limit in INSTRUCTION_SETS.items()
        for precision in PRECISIONS
    }
    times_ms: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(arguments.turns):
        for way, process in ways.items():
            times_ms[way].append(asked(process))
    for process in ways.values():
        process.communicate()
    print("| instructions | float32 | bfloat16 | |\n|---|---:|---:|---:|")
    for name in INSTRUCTION_SETS:
        single, half = (statistics.median(times_ms[name, precision]) for precision in PRECISIONS)
        print(f"| {name} | {single:.0f} | {half:.0f} | {half / single:.2f} |")


def started(repository: Path, limit: str, precision: str) -> "subprocess.Popen[str]":
    """A process that runs the network whenever it is asked."""
    command = [sys.executable, __file__, "--repository", str(repository), "--answer", precision]
    process = subprocess.Popen(
        command,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    asked(process)
    return process


def asked(process: "subprocess.Popen[str]") -> float:
    """Time of one tile in this process, milliseconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def answer(network: Path, precision: str) -> None:
    """For each line of the input, run a tile and print its time."""
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    sides = {"views": 1, "channels": 1, "32*rows": SIDE_PX, "32*columns": SIDE_PX}
    for name, length in sides.items():
        options.add_free_dimension_override_by_name(name, length)
    load = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False}})
    provider = ("OpenVINOExecutionProvider", {"device_type": "CPU", "load_config": load})
    session = onnxruntime.InferenceSession(network, options, providers=[provider])
    image = np.random.default_rng(0).random((1, 1, SIDE_PX, SIDE_PX), np.float32)
    for _ in sys.stdin:
        started_s = time.perf_counter()
        session.run(["MAPS"], {"IMAGE": image})
        print((time.perf_counter() - started_s) * 1e3, flush=True)


if __name__ == "__main__":
    main()
