"""Marks for the tests, and real servers, once per session (of each worker), on free ports."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# gRPC reads it as it is imported (`nuclei.process.child` says why).
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import httpx
import hypothesis
import pytest

from nuclei.client import Client
from nuclei.inference.routing import Routing
from nuclei.process import ports
from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports
from serving.repository.export import collect_artifacts, export_version, set_routing
from serving.supervision.gateway_process import COMMAND
from serving.triton.server import TritonServer
from tests.shipped import SHIPPED, VERSION

if TYPE_CHECKING:
    from tests.serving.promotion.registries import Filled

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("nuclei", deadline=None)
hypothesis.settings.load_profile("nuclei")

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# Small, so the tests of limits exceed it quickly.
MAX_REQUEST_BYTES = 8 * 2**20
START_S = 60.0
STOP_S = 30.0

# Modules that train or export networks. Importing them takes 20 s, so a run without tests marked
# `train` does not collect them.
TRAINING = [
    Path(__file__).parent / name
    for name in (
        *("training/families", "training/graphs", "training/test_job.py"),
        *("training/test_ema.py", "training/test_optimisation.py", "training/test_plan.py"),
        *("training/test_ranks.py", "training/test_receptive_field.py"),
        "training/test_side_by_side.py",
        *("serving/test_families.py", "nuclei/cli/test_export.py"),
    )
]
# Fixtures that mark the tests that use them, directly or through other fixtures.
MARKING_FIXTURES = {
    "train": {"artifacts"},
    "triton": {"triton", "own_triton"},
    "slow": {"run_gateway", "start_gateway"},
}


def _trains(path: Path) -> bool:
    return any(path.is_relative_to(training) for training in TRAINING)


def pytest_configure(config: pytest.Config) -> None:
    """Let workers of pytest-xdist share the machine: one thread each, and separate ports."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        ports.FREE = ports.FREE[number::workers]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if "not train" in config.getoption("markexpr") and _trains(collection_path):
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        marks = {name for name, marking in MARKING_FIXTURES.items() if fixtures & marking}
        if _trains(item.path):
            marks.add("train")
        for name in marks:
            item.add_marker(name)


@dataclass(frozen=True)
class Gateway:
    """A gateway that was started."""

    process: Child
    url: str
    grpc_address: str

    def wait_ready(self, ready: bool = True, seconds: float = START_S) -> None:
        """Wait until /readyz is green, or red."""
        wanted = 200 if ready else 503
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == wanted:
                    return
            except httpx.TransportError:
                if not self.process.running:
                    break
            time.sleep(0.1)
        pytest.fail(f"/readyz never answered {wanted}:\n{self.process.last_lines(30)}")


@contextmanager
def running_gateway(folder: Path, triton_address: str, **settings: str) -> Iterator[Gateway]:
    """A gateway with these settings, which writes into `folder`."""
    http_port, grpc_port = free_ports(2)
    environment = {
        **os.environ,
        "NUCLEI_TRITON_ADDRESS": triton_address,
        "NUCLEI_HTTP_PORT": str(http_port),
        "NUCLEI_GRPC_PORT": str(grpc_port),
        "NUCLEI_MAX_REQUEST_BYTES": str(MAX_REQUEST_BYTES),
        **settings,
    }
    process = Child("gateway", COMMAND, environment, folder / "gateway.log")
    process.start()
    try:
        yield Gateway(process, f"http://{LOOPBACK}:{http_port}", f"{LOOPBACK}:{grpc_port}")
    finally:
        process.stop(STOP_S)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository that ships with the project."""
    return shutil.copytree(SHIPPED, tmp_path_factory.mktemp("models") / "repository")


@pytest.fixture(scope="session")
def version() -> str:
    """The version of the shipped model."""
    return str(VERSION)


@pytest.fixture(scope="session")
def shipped_artifacts(
    repository: Path, version: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The files of the shipped model, as training registers them."""
    return collect_artifacts(repository, "unet", int(version), tmp_path_factory.mktemp("shipped"))


@pytest.fixture
def repository_of_two(own_repository: Path, shipped_artifacts: Path, version: str) -> Path:
    """A repository with a newer version, the champion, beside the shipped one."""
    newer = int(version) + 1
    export_version(shipped_artifacts, own_repository, newer)
    set_routing(own_repository, "unet", Routing(newer))
    return own_repository


def triton_server(repository: Path, state: Path) -> TritonServer:
    (metrics_port,) = free_ports(1)
    return TritonServer(repository, state, metrics_port=metrics_port)


@pytest.fixture(scope="session")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A running Triton, for tests that leave it as it is."""
    with triton_server(repository, tmp_path_factory.mktemp("triton")) as running:
        yield running


@pytest.fixture
def own_repository(repository: Path, tmp_path: Path) -> Path:
    """A copy for one test, which may change it."""
    return shutil.copytree(repository, tmp_path / "repository")


@pytest.fixture
def own_triton(own_repository: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """A running Triton for one test, on `own_repository`, which may kill and restart it."""
    with triton_server(own_repository, tmp_path / "triton") as running:
        yield running


@pytest.fixture(scope="session")
def gateway(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A ready gateway, for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, triton.address) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def run_gateway() -> Callable[..., AbstractContextManager[Gateway]]:
    """Runs gateways for as long as a fixture likes: `with run_gateway(folder, address, ...)`."""
    return running_gateway


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways for one test: `start_gateway(triton_address, NUCLEI_...=...)`."""
    with ExitStack() as stack:

        def start(triton_address: str, **settings: str) -> Gateway:
            return stack.enter_context(running_gateway(tmp_path, triton_address, **settings))

        yield start


@pytest.fixture(scope="session")
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.grpc_address) as connected:
        yield connected


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


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What training registers: the graphs of a U-Net of one convolution, and their contract."""
    import torch

    from nuclei.inference.contract import CONTRACT_FILE, Contract
    from training.graphs.maps import map_steps
    from training.graphs.step import export_steps

    folder = tmp_path_factory.mktemp("artifacts")
    torch.manual_seed(0)
    export_steps(map_steps(torch.nn.Conv2d(3, 3, 3, padding=1).eval()), folder)
    contract = Contract("unet", validation={"dsb_score": 0.5, "dsb_score/histology": 0.25})
    (folder / CONTRACT_FILE).write_text(contract.to_json())
    return folder


@pytest.fixture(scope="session")
def registry_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of a filled registry, which tests copy: MLflow makes one in 3 s."""
    from mlflow import MlflowClient

    from tests.serving.promotion.registries import fill

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    fill(MlflowClient(uri, uri), (folder / "files").as_uri(), folder)
    return folder


@pytest.fixture
def filled(registry_template: Path, tmp_path: Path) -> "Filled":
    """A registry of its own for one test; the files of the versions are shared."""
    from mlflow import MlflowClient

    from serving.registry import Registry
    from tests.serving.promotion.registries import Filled

    uri = f"sqlite:///{shutil.copy(registry_template / 'mlflow.db', tmp_path)}"
    return Filled(Registry(uri), MlflowClient(uri, uri))
