"""A service for a benchmark, on free ports, and frames to send to it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray

from nuclei.imaging.images import read_frame
from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports
from nuclei.v1 import segmentation_pb2 as pb

ROOT = Path(__file__).parents[1]
REPOSITORY = ROOT / "model_repository"
EXAMPLE = ROOT / "examples" / "fluorescence_16bit.tif"
START_S = 120.0
STOP_S = 60.0


@dataclass(frozen=True)
class Served:
    """A running `nuclei serve`.

    Attributes:
        pid: of the process that was started; all others are below it.
        grpc_address: host:port of the gateway's gRPC server.
        http_url: of the gateway's HTTP server.
    """

    pid: int
    grpc_address: str
    http_url: str


@contextmanager
def running_service(repository: Path = REPOSITORY, /, **settings: str) -> Iterator[Served]:
    """`nuclei serve` on free ports until the block ends; settings are `NUCLEI_...` variables."""
    http_port, grpc_port, metrics_port = free_ports(3)
    with tempfile.TemporaryDirectory() as state:
        environment = {
            **os.environ,
            "NUCLEI_TRITON_METRICS_PORT": str(metrics_port),
            "NUCLEI_HTTP_PORT": str(http_port),
            "NUCLEI_GRPC_PORT": str(grpc_port),
            "NUCLEI_STATE": state,
            **settings,
        }
        command = [str(Path(sys.executable).with_name("nuclei")), "serve"]
        command += ["--repository", str(repository)]
        with (Path(state) / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            _wait_ready(process, Path(log.name))
            url = f"http://{LOOPBACK}:{http_port}"
            yield Served(process.pid, f"{LOOPBACK}:{grpc_port}", url)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_S)


@contextmanager
def running_gateway(
    folder: Path, triton_addresses: Sequence[str], **settings: str
) -> Iterator[Child]:
    """A gateway alone, ready, until the block ends; settings are `NUCLEI_...` variables.

    Args:
        folder: for its log.
        triton_addresses: of the Tritons, which run.
        settings: its ports, and others.
    """
    environment = {
        **os.environ,
        "NUCLEI_TRITON_ADDRESS": ",".join(triton_addresses),
        **settings,
    }
    command = [sys.executable, "-m", "serving.gateway"]
    gateway = Child("gateway", command, environment, folder / "gateway.log")
    host = settings.get("NUCLEI_HOST", LOOPBACK)
    with running(gateway, f"http://{host}:{settings['NUCLEI_HTTP_PORT']}/readyz"):
        yield gateway


@contextmanager
def running(server: Child, url: str) -> Iterator[None]:
    """A server until the block ends; it is ready once it has something at this URL."""
    server.start()
    try:
        deadline = time.monotonic() + START_S
        while not _has(url):
            if not server.running or time.monotonic() > deadline:
                sys.exit(f"{server.name} is not ready:\n{server.last_lines(20)}")
            time.sleep(0.1)
        yield
    finally:
        server.stop(STOP_S)


def _has(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


def part_of(process: psutil.Process) -> str:
    """The part of the service that a process below it is."""
    command = process.cmdline()
    if "serving.decoding.decoder" in command:
        return "decoders"
    if "serving.gateway" in command:
        return "gateway"
    if "serving.promotion" in command:
        return "sync"
    if any("triton_python_backend_stub" in word for word in command):
        return "stubs"
    return "triton" if "tritonserver" in process.name() else "others"


def _wait_ready(process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while "Ready in" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the service did not start:\n{log.read_text()}")
        time.sleep(0.2)


def example_pixels(side_px: int) -> NDArray[np.uint16]:
    """A real 16-bit frame, uint16 [side, side]; beyond its edges it is mirrored."""
    pixels = read_frame(EXAMPLE).pixels[:, :, 0]
    missing = [(0, max(0, side_px - length)) for length in pixels.shape]
    return np.ascontiguousarray(np.pad(pixels, missing, mode="symmetric")[:side_px, :side_px])


def request_of(pixels: NDArray[np.uint16], **fields: Any) -> pb.SegmentRequest:
    """A request with raw pixels, uint16 [H, W]."""
    raw = pb.RawPixels(
        data=pixels.astype("<u2").tobytes(),
        height=pixels.shape[0],
        width=pixels.shape[1],
        pixel_type=pb.PIXEL_TYPE_UINT16,
    )
    return pb.SegmentRequest(frame=pb.Frame(raw=raw), **fields)
