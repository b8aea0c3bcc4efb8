"""Real servers for the tests, once per session, on free ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from nuclei.client import Client

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# Small enough to be exceeded quickly by the tests of limits.
MAX_REQUEST_BYTES = 8 * 2**20
START_SECONDS = 60


@dataclass
class Gateway:
    """A running gateway: `bentoml serve` and its workers, in a process group of its own."""

    process: subprocess.Popen[bytes]
    url: str
    grpc_address: str
    log: Path

    def wait_ready(self, ready: bool = True, seconds: float = START_SECONDS) -> None:
        """Wait until /readyz is green, or red."""
        wanted = 200 if ready else 503
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == wanted:
                    return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise TimeoutError(f"/readyz never answered {wanted}:\n{self.log.read_text()}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_gateway(folder: Path, triton_address: str, **settings: str) -> Iterator[Gateway]:
    """A gateway whose settings are the given ones, logging into `folder`."""
    http_port, grpc_port = free_port(), free_port()
    environment = {
        **os.environ,
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "NUCLEI_TRITON_ADDRESS": triton_address,
        "NUCLEI_GRPC_PORT": str(grpc_port),
        "NUCLEI_MAX_REQUEST_BYTES": str(MAX_REQUEST_BYTES),
        **settings,
    }
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", "serving.gateway.service:NucleiGateway",
             "--host", "127.0.0.1", "--port", str(http_port), "--working-dir", str(ROOT)],
            env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    gateway = Gateway(process, f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", log)
    try:
        yield gateway
    finally:
        gateway.stop()


StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository that ships with the project."""
    return shutil.copytree(
        ROOT / "model_repository", tmp_path_factory.mktemp("models") / "repository"
    )


@pytest.fixture(scope="session")
def gateway(triton_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A ready gateway, for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, triton_address) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.grpc_address) as connected:
        yield connected


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[StartGateway]:
    """Starts gateways of the test's own: `start_gateway(triton_address, NUCLEI_...=...)`."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(triton_address: str, **settings: str) -> Gateway:
            return stack.enter_context(running_gateway(tmp_path, triton_address, **settings))

        yield start


@pytest.fixture(scope="session")
def fluorescence() -> Path:
    """A real frame of cultured cells, 8-bit grey."""
    return EXAMPLES / "fluorescence.png"


@pytest.fixture(scope="session")
def fluorescence_16bit() -> Path:
    """A real frame of U2OS cells, 16-bit grey TIFF."""
    return EXAMPLES / "fluorescence_16bit.tif"


@pytest.fixture(scope="session")
def histology() -> Path:
    """A real section of stained tissue, RGB."""
    return EXAMPLES / "histology.png"
