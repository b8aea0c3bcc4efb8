"""The service beside others on this machine, in one run: a table of docs/performance.md.

    make peers-env      (StarDist with TensorFlow, LitServe, MLServer, perf_analyzer: 3 GB)
    apt-get install libb64-0d                                      (perf_analyzer needs it)
    .venv-train/bin/python benchmarks/peers.py

Frames of each side go through our whole service (gRPC, network, post-processing) and through
StarDist's network alone, in turns. Then a tile of 512 x 512 goes through the same ONNX file in our
Triton, in LitServe and in MLServer, from one caller and from four, in turns; and Triton's own
perf_analyzer measures the first of these, too. Each uses two threads for a network. Medians,
milliseconds.
"""

import argparse
import asyncio
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
from load import unary_load
from served import REPOSITORY, ROOT, example_pixels, request_of, running, running_service
from tritonclient.grpc import InferenceServerClient, InferInput

from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports
from serving.triton.server import TritonServer

ENVIRONMENTS = ROOT / ".venv-peers"
HERE = Path(__file__).with_name("peers")
SIDES_PX = (512, 1024, 2048)
TILE_PX = 512
CALLERS = (1, 4)
TIMEOUT_S = 60.0
Send = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5, help="of each measurement [5]")
    parser.add_argument("--seconds", type=float, default=4, help="of each turn [4]")
    arguments = parser.parse_args()
    if not ENVIRONMENTS.is_dir():
        sys.exit(f"{ENVIRONMENTS} is missing; make it with `make peers-env`")
    for beside in (beside_stardist, beside_servers):
        for line in beside(arguments.turns, arguments.seconds):
            print(line, flush=True)


def beside_stardist(turns: int, seconds: float) -> Iterator[str]:
    """Our whole service, and StarDist's network alone."""
    yield "| frame | StarDist's network | our service | of StarDist's |\n|---|---:|---:|---:|"
    command = [python("stardist"), str(HERE / "stardist_network.py")]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet
        ) as stardist,
        running_service() as served,
    ):
        assert stardist.stdin is not None
        assert stardist.stdout is not None
        for side in SIDES_PX:
            request = request_of(example_pixels(side))
            asyncio.run(unary_load(served.grpc_address, request, 1, seconds))
            theirs, ours = [], []
            for _ in range(turns):
                stardist.stdin.write(f"{side} {seconds}\n")
                stardist.stdin.flush()
                theirs.append(float(stardist.stdout.readline()))
                load = asyncio.run(unary_load(served.grpc_address, request, 1, seconds))
                ours.append(load.percentile_ms(50))
            ratio = statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
            of_both = " | ".join(f"{statistics.median(one):.0f}" for one in (theirs, ours))
            yield f"| {side} x {side} | {of_both} | {ratio:.2f} |"
        stardist.stdin.close()


def beside_servers(turns: int, seconds: float) -> Iterator[str]:
    """The same ONNX file in several servers."""
    (network,) = REPOSITORY.glob("unet_network.*")
    (model,) = network.glob("*/model.onnx")
    yield "\n| server | callers | tiles/s | p50, ms |\n|---|---:|---:|---:|"
    with ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        triton_address, triton = stack.enter_context(our_triton(folder, network.name))
        servers = {
            "our Triton": triton,
            "LitServe": stack.enter_context(litserve(folder, model)),
            "MLServer": stack.enter_context(mlserver(folder, model)),
        }
        for callers in CALLERS:
            found: dict[str, list[list[float]]] = {name: [] for name in servers}
            for _ in range(turns):
                for name, send in servers.items():
                    found[name].append(measured(send, callers, seconds))
            for name, times in found.items():
                rate = statistics.median(len(turn) / seconds for turn in times)
                p50 = statistics.median(statistics.median(turn) for turn in times)
                yield f"| {name} | {callers} | {rate:.1f} | {1e3 * p50:.0f} |"
            rate, p50_ms = perf_analyzer(folder, network.name, triton_address, callers, seconds)
            yield f"| our Triton, by perf_analyzer | {callers} | {rate:.1f} | {p50_ms:.0f} |"


def measured(send: Send, callers: int, seconds: float) -> list[float]:
    """The time of each tile that was answered, seconds."""
    end = time.perf_counter() + seconds

    def call(_: int) -> list[float]:
        times = []
        while (started := time.perf_counter()) < end:
            send()
            times.append(time.perf_counter() - started)
        return times

    with ThreadPoolExecutor(callers) as pool:
        return [one for times in pool.map(call, range(callers)) for one in times]


def tile() -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.random.default_rng(0).random((1, 1, TILE_PX, TILE_PX), np.float32)


@contextmanager
def our_triton(folder: Path, network: str) -> Iterator[tuple[str, Send]]:
    (metrics_port,) = free_ports(1)
    with TritonServer(REPOSITORY, folder / "t", metrics_port=metrics_port) as triton:
        yield triton.address, of_protocol(triton.address, network)


@contextmanager
def litserve(folder: Path, model: Path) -> Iterator[Send]:
    (port,) = free_ports(1)
    command = [python("litserve"), str(HERE / "litserve_server.py"), str(model), str(port)]
    url, files = f"http://{LOOPBACK}:{port}", {"tile": tile().tobytes()}
    server = Child("litserve", command, dict(os.environ), folder / "litserve.log")
    with running(server, f"{url}/health"), httpx.Client(timeout=TIMEOUT_S) as client:
        yield lambda: client.post(f"{url}/predict", files=files).raise_for_status()


@contextmanager
def mlserver(folder: Path, model: Path) -> Iterator[Send]:
    http_port, grpc_port, metrics_port = free_ports(3)
    settings = {
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "parallel_workers": 0,
        "grpc_max_message_length": 2**27,
    }
    of_model = {
        "name": "network",
        "implementation": "mlserver_runtime.Network",
        "parameters": {"uri": str(model)},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(of_model))
    command = [str(Path(python("mlserver")).with_name("mlserver")), "start", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    server = Child("mlserver", command, environment, folder / "mlserver.log")
    with running(server, f"http://{LOOPBACK}:{http_port}/v2/models/network/ready"):
        yield of_protocol(f"{LOOPBACK}:{grpc_port}", "network")


def of_protocol(address: str, model: str) -> Send:
    """A tile over the protocol that Triton and MLServer speak."""
    client, image = InferenceServerClient(address), tile()
    given = InferInput("IMAGE", list(image.shape), "FP32")
    given.set_data_from_numpy(image)

    def send() -> None:
        maps = client.infer(model, [given]).as_numpy("MAPS")
        assert maps is not None
        assert maps.shape[-1] == TILE_PX

    return send


def perf_analyzer(
    folder: Path, network: str, address: str, callers: int, seconds: float
) -> tuple[float, float]:
    """Tiles a second and the median, milliseconds, as Triton's load tool finds them."""
    home = Path(python("perf")).parents[1]
    (library,) = home.glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")
    report = folder / f"perf-{callers}.csv"
    shape = f"IMAGE:1,{TILE_PX},{TILE_PX}"
    command = ["perf_analyzer", "-m", network, "-i", "grpc", "-u", address, "--shape", shape]
    command += ["--concurrency-range", str(callers), "--percentile", "50", "-f", str(report)]
    # It takes what it has measured, however much that varies.
    command += ["--stability-percentage", "999", "--measurement-interval", f"{1e3 * seconds:.0f}"]
    subprocess.run(
        [str(home / "bin" / command[0]), *command[1:]],
        env={**os.environ, "LD_LIBRARY_PATH": str(library)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (row,) = csv.DictReader(report.read_text().splitlines())
    return float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e3


def python(environment: str) -> str:
    return str(ENVIRONMENTS / environment / "bin" / "python")


if __name__ == "__main__":
    main()
