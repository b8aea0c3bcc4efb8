"""Time of the network in one process: the ONNX files of a repository, run as Triton's backend does.

.venv-triton/bin/python benchmarks/network_in_process.py

Triton's environment is used for its onnxruntime and accelerators, but Triton does not run. A
frame's tiles, all of one size, go through preprocessing and the network one after the other, on
all threads. For each line "SIDE SECONDS" of its input it runs frames of that side for that time and
prints the mean and the median time of a frame, milliseconds:

echo 512 5 | .venv-triton/bin/python benchmarks/network_in_process.py
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from nuclei.imaging.tiles import plan_tiles  # noqa: E402
from nuclei.processor import AUTO, fast_precision, read_cpuinfo  # noqa: E402

STEPS = ("preprocess", "unet_network.*")

onnxruntime.disable_telemetry_events()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    arguments = parser.parse_args()
    contract = contract_of(arguments.repository)
    steps = [open_step(next(arguments.repository.glob(name))) for name in STEPS]
    for line in sys.stdin:
        side, seconds = line.split()
        mean_ms, median_ms = frame_ms(steps, contract, int(side), float(seconds))
        print(f"{mean_ms:.3f} {median_ms:.3f}", flush=True)


def contract_of(repository: Path) -> dict[str, Any]:
    """The contract in the ensemble's configuration; Triton's environment cannot parse it."""
    text = next(repository.glob("unet.*/config.pbtxt")).read_text()
    found = re.search(r'key: "contract"\s+value {\s+string_value: ("(?:[^"\\]|\\.)*")', text)
    assert found is not None, "the ensemble carries a contract"
    contract: dict[str, Any] = json.loads(json.loads(found[1]))
    return contract


def open_step(model: Path) -> onnxruntime.InferenceSession:
    """A session with the threads, accelerator and precision of the model's configuration."""
    text = (model / "config.pbtxt").read_text()
    options = onnxruntime.SessionOptions()
    threads = re.search(r'"intra_op_thread_count"\s+value {\s+string_value: "(\d+)"', text)
    options.intra_op_num_threads = int(threads[1]) if threads else 0
    providers: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return onnxruntime.InferenceSession(newest(model), options, on_gpu(text))
    precision = re.search(
        r'name: "openvino"\s+parameters {\s+key: "precision"\s+value: "(\w+)"', text
    )
    if precision:
        used = fast_precision(read_cpuinfo()) if precision[1] == AUTO else precision[1]
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"BF16": "bf16", "FP32": "f32"}[used]
        }
        if threads:
            properties["INFERENCE_NUM_THREADS"] = int(threads[1])
        load = json.dumps({"CPU": properties})
        providers.insert(
            0, ("OpenVINOExecutionProvider", {"device_type": "CPU", "load_config": load})
        )
    return onnxruntime.InferenceSession(newest(model), options, providers=providers)


def newest(model: Path) -> Path:
    """The file of the newest version."""
    numbers = (path.name for path in model.iterdir() if path.name.isdigit())
    return model / max(numbers, key=int) / "model.onnx"


def on_gpu(text: str) -> list[tuple[str, dict[str, str]]]:
    """The providers that a model's configuration names for a GPU."""
    cuda: tuple[str, dict[str, str]] = ("CUDAExecutionProvider", {})
    tensorrt = re.search(
        r'name: "tensorrt"\s+parameters {\s+key: "precision_mode"\s+value: "(\w+)"', text
    )
    if tensorrt is None:
        return [cuda]
    half = {"trt_fp16_enable": "1"} if tensorrt[1] == "FP16" else {}
    return [("TensorrtExecutionProvider", half), cuda]


def frame_ms(
    steps: list[onnxruntime.InferenceSession], contract: dict[str, Any], side: int, for_s: float
) -> tuple[float, float]:
    """Mean and median time of all tiles of one frame through all steps, milliseconds."""
    plan = plan_tiles(side, side, *(contract[name] for name in ("tile_size", "halo", "stride")))
    random = np.random.default_rng(0)
    tile = random.integers(0, 4096, (*plan.shape, 1), dtype=np.uint16)
    seconds: list[float] = []
    run_tile(steps, tile)
    while sum(seconds) < for_s:
        started = time.perf_counter()
        for _ in plan.tiles:
            run_tile(steps, tile)
        seconds.append(time.perf_counter() - started)
    return float(np.mean(seconds)) * 1e3, float(np.median(seconds)) * 1e3


def run_tile(steps: list[onnxruntime.InferenceSession], tile: Any) -> Any:
    """The maps of one tile, uint8 [K, S, S]."""
    preprocess, network = steps
    given = {"IMAGE": tile, "RANGE": np.array([0, 4095], np.float32)}
    (image,) = preprocess.run(["INPUT"], given)
    return network.run(["MAPS"], {"IMAGE": image})[0][0]


if __name__ == "__main__":
    main()
