"""`nuclei serve`: Triton and the gateway as one service on this machine."""

import os
import signal
import sys
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from nuclei.client import Client
from nuclei.errors import EngineFailed, InvalidData, InvalidImage
from nuclei.segmentation import Segmentation
from serving.child import Child
from serving.ports import LOOPBACK, check_free
from serving.triton.server import DEFAULT_ENVIRONMENT, TritonServer

ROOT = Path(__file__).parents[1]
SERVICE = "serving.gateway.service:NucleiGateway"

_POLL_S = 0.2
_PROBE_S = 2.0
_ERROR_LINES = 15
_ANY_ADDRESSES = ("0.0.0.0", "::", "")

# Our own servers are never reached through a proxy.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServeSettings(BaseSettings):
    """Settings of `nuclei serve`; `NUCLEI_HTTP_PORT=8080` sets `http_port`.

    Those of the gateway itself (`GatewaySettings`) are read by its own process.

    Attributes:
        host: address on which the gateway listens, HTTP and gRPC.
        http_port: port of the gateway's HTTP API.
        grpc_port: port of the gateway's gRPC API.
        repository: Triton's model repository.
        state: folder for logs and what the servers need to write.
        triton_http_port: port of Triton's HTTP API, on loopback.
        triton_grpc_port: port of Triton's gRPC API, on loopback.
        triton_metrics_port: port of Triton's metrics, on loopback.
        triton_environment: virtual environment of Triton.
        check_frame: the frame segmented as a check of the whole way.
        start_s: most seconds that the gateway may take to start.
        stop_s: most seconds that the gateway may take to finish its requests.
    """

    model_config = SettingsConfigDict(env_prefix="NUCLEI_", frozen=True)

    host: str = LOOPBACK
    http_port: int = Field(default=3000, ge=1, le=65535)
    grpc_port: int = Field(default=50051, ge=1, le=65535)
    repository: Path = Path("model_repository")
    state: Path = Path(".state")
    triton_http_port: int = Field(default=8000, ge=1, le=65535)
    triton_grpc_port: int = Field(default=8001, ge=1, le=65535)
    triton_metrics_port: int = Field(default=8002, ge=1, le=65535)
    triton_environment: Path = DEFAULT_ENVIRONMENT
    check_frame: Path = ROOT / "examples" / "fluorescence.png"
    start_s: float = Field(default=90.0, gt=0)
    stop_s: float = Field(default=30.0, gt=0)

    @property
    def reachable_host(self) -> str:
        """A host by which this machine reaches the gateway."""
        return LOOPBACK if self.host in _ANY_ADDRESSES else self.host


@dataclass(frozen=True)
class SelfCheck:
    """What the check of the whole way gave.

    Attributes:
        frame: the frame that was segmented.
        segmentation: what came back.
        latency_ms: time of a request once the models are warm, milliseconds.
    """

    frame: Path
    segmentation: Segmentation
    latency_ms: float


class Service:
    """Triton and the gateway; stopping ends both, in the order in which nothing is lost."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.triton = TritonServer(
            settings.repository,
            settings.state,
            http_port=settings.triton_http_port,
            grpc_port=settings.triton_grpc_port,
            metrics_port=settings.triton_metrics_port,
            environment=settings.triton_environment,
        )
        self.gateway = Child(
            "the gateway",
            _gateway_command(settings),
            _gateway_environment(settings, self.triton.address),
            _home(settings) / "gateway.log",
        )
        self._stack = ExitStack()

    @property
    def http_url(self) -> str:
        return f"http://{self.settings.reachable_host}:{self.settings.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"{self.settings.reachable_host}:{self.settings.grpc_port}"

    def check(self) -> None:
        """Check everything that starting needs, before anything is started.

        Raises:
            MissingPrerequisite: a port is taken, or this machine lacks something.
            InvalidData: the repository holds no model.
        """
        settings = self.settings
        check_free(settings.host, settings.http_port, "HTTP", "--http-port")
        check_free(settings.host, settings.grpc_port, "gRPC", "--grpc-port")
        self.triton.check()

    def start(self) -> None:
        """Start Triton, then the gateway, and wait until it is ready.

        Raises:
            MissingPrerequisite, InvalidData: as `check`, or a model cannot be loaded.
            EngineFailed: one of the two ended, or was not ready in time.
        """
        self.check()
        self._stack.enter_context(self.triton)
        self._stack.callback(self.gateway.stop, self.settings.stop_s)
        self.gateway.start()
        deadline = time.monotonic() + self.settings.start_s
        while not self._is_ready():
            self.check_alive()
            if time.monotonic() > deadline:
                raise EngineFailed(
                    f"the gateway was not ready in {self.settings.start_s:.0f} s:\n"
                    + self.gateway.last_lines(_ERROR_LINES)
                )
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Stop the gateway, which finishes its requests, then Triton."""
        self._stack.close()

    def self_check(self) -> SelfCheck:
        """Segment a real frame through the gateway, over gRPC.

        Raises:
            InvalidImage: the frame cannot be read.
            NucleiError: what the gateway answers.
        """
        frame = self.settings.check_frame
        if not frame.is_file():
            raise InvalidImage(f"the frame for the self-check is missing: {frame}")
        with Client(self.grpc_address) as client:
            client.segment(frame, timeout_s=self.settings.start_s)
            started = time.perf_counter()
            segmentation = client.segment(frame, timeout_s=self.settings.start_s)
            latency_ms = (time.perf_counter() - started) * 1000
        if not len(segmentation.nuclei.label):
            raise InvalidData(
                f"the model finds no nucleus in {frame}; export another version of it"
            )
        return SelfCheck(frame, segmentation, latency_ms)

    def check_alive(self) -> None:
        """Raises EngineFailed when Triton or the gateway has ended."""
        for name, running, log in (
            ("Triton", self.triton.running, self.triton.log),
            (self.gateway.name, self.gateway.running, self.gateway.log),
        ):
            if not running:
                raise EngineFailed(f"{name} ended unexpectedly; {log} says why")

    def wait(self) -> NoReturn:
        """Wait for ever.

        Raises:
            EngineFailed: Triton or the gateway ended.
        """
        while True:
            self.check_alive()
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        try:
            with _http.open(f"{self.http_url}/readyz", timeout=_PROBE_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt, once: stopping is not interrupted."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def _home(settings: ServeSettings) -> Path:
    """Folder of this gateway: BentoML wants one for each server."""
    return settings.state.resolve() / f"gateway-{settings.http_port}"


def _gateway_command(settings: ServeSettings) -> list[str]:
    return [
        *(sys.executable, "-m", "bentoml", "serve", SERVICE),
        *("--working-dir", str(ROOT)),
    ]


def _gateway_environment(settings: ServeSettings, triton_address: str) -> dict[str, str]:
    return {
        **os.environ,
        "BENTOML_HOME": str(_home(settings) / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "NUCLEI_TRITON_ADDRESS": triton_address,
        "NUCLEI_HOST": settings.host,
        "NUCLEI_HTTP_PORT": str(settings.http_port),
        "NUCLEI_GRPC_PORT": str(settings.grpc_port),
    }
