"""Triton and the gateway as one service on this machine, and how its parts are watched."""

import math
import os
import secrets
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from nuclei.client import Client
from nuclei.errors import EngineFailed, InvalidData, InvalidImage, InvalidOption
from nuclei.results.segmentation import Segmentation
from serving.gateway.settings import GatewaySettings
from serving.process.child import Child
from serving.process.ports import check_free
from serving.repository.listing import list_models
from serving.settings import ROOT, ServeSettings
from serving.supervision.loopback import Loopback
from serving.supervision.probe import Fault, check_triton
from serving.supervision.supervisor import Part
from serving.triton.key import GRPC_HEADER
from serving.triton.server import TritonServer

SERVICE = "serving.gateway.service:NucleiGateway"

_POLL_S = 0.2
_PROBE_S = 2.0
_HUNG_S = 12.0
_CHECK_INTERVAL_S = 2.0
# Between two looks at what may only be about to be noticed.
_NOTICE_S = 0.5
_ERROR_LINES = 15
# To write the answers of frames that are given up when the gateway's time for draining is over.
_LAST_ANSWERS_S = 2.0


@dataclass(frozen=True)
class SelfCheck:
    """What the check of the whole way gave for one model.

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

    def __init__(self, settings: ServeSettings, gateway: GatewaySettings) -> None:
        """Describe the service; `start` starts it.

        Args:
            settings: of the service.
            gateway: what the gateway will read from the environment.

        Raises:
            InvalidOption: the repository does not hold the default model that was asked for.
            InvalidData: a model's configuration cannot be read.
        """
        self.settings = settings
        self._gateway_settings = gateway
        self._key = secrets.token_urlsafe(32)
        self.triton = TritonServer(
            settings.repository,
            settings.state,
            http_port=settings.triton_http_port,
            grpc_port=settings.triton_grpc_port,
            metrics_port=settings.triton_metrics_port,
            environment=settings.triton_environment,
            key=self._key,
            traces=gateway.traces,
        )
        self.gateway = Child(
            "the gateway",
            gateway_command(gateway.drain_s),
            _gateway_environment(settings, gateway, self.triton.address, self._key),
            _home(settings, gateway) / "gateway.log",
        )
        self.loopback = Loopback(gateway)
        # Those that have answered.
        self._workers: frozenset[int] = frozenset()
        self._stack = ExitStack()

    def check(self) -> None:
        """Check everything that starting needs, before anything is started.

        Raises:
            MissingPrerequisite: a port is taken, or this machine lacks something.
            InvalidData: the repository holds no model.
        """
        address = self._gateway_settings
        check_free(address.host, address.http_port, "HTTP", "--http-port")
        check_free(address.host, address.grpc_port, "gRPC", "--grpc-port")
        self.triton.check()

    def start(self) -> None:
        """Start Triton, then the gateway, and wait until it is ready.

        Raises:
            MissingPrerequisite, InvalidData: as `check`, or a model cannot be loaded.
            EngineFailed: one of the two ended, or was not ready in time.
        """
        self.check()
        self._stack.callback(self.triton.stop)
        self.triton.start()
        self._stack.callback(self.gateway.stop, self.settings.stop_s)
        self._start_gateway("/readyz")
        if not self.triton.running:
            raise EngineFailed(f"Triton ended ({self.triton.ending}); {self.triton.log} says why")

    def stop(self) -> None:
        """Stop the gateway, which finishes its requests, then Triton."""
        self._stack.close()

    def parts(self) -> list[Part]:
        """The two servers, as a supervisor watches them; `start` has started them."""
        return [
            Part(
                "triton",
                start=self.triton.start,
                kill=lambda: self.triton.stop(0),
                ended=lambda: None if self.triton.running else self.triton.ending,
                check=self._check_triton,
                check_interval_s=_CHECK_INTERVAL_S,
                tidy=self.triton.cap_log,
            ),
            Part(
                "gateway",
                start=lambda: self._start_gateway("/livez"),
                kill=lambda: self.gateway.stop(0),
                ended=lambda: None if self.gateway.running else self.gateway.ending,
                check=self._check_gateway,
                check_interval_s=_CHECK_INTERVAL_S,
                tidy=self.gateway.cap_log,
            ),
        ]

    def self_check(self) -> list[SelfCheck]:
        """Segment a real frame with every model through the gateway, over gRPC; the default first.

        Raises:
            InvalidImage: the frame cannot be read.
            InvalidData: the default model finds nothing in it.
            NucleiError: what the gateway answers.
        """
        frame = self.settings.check_frame
        if not frame.is_file():
            raise InvalidImage(f"the frame for the self-check is missing: {frame}")
        with self.loopback.client() as client:
            info = client.server_info()
            others = sorted({model.name for model in info.models} - {info.default_model})
            checks = [self._checked(client, frame, name) for name in (info.default_model, *others)]
        if not len(checks[0].segmentation.nuclei):
            raise InvalidData(
                f"{info.default_model} finds no nucleus in {frame}; export another version of it, "
                "or name a frame of the kind that it was made for: NUCLEI_CHECK_FRAME=..."
            )
        return checks

    def _checked(self, client: Client, frame: Path, model: str) -> SelfCheck:
        client.segment(frame, model=model, timeout_s=self.settings.start_s)
        started = time.perf_counter()
        segmentation = client.segment(frame, model=model, timeout_s=self.settings.start_s)
        return SelfCheck(frame, segmentation, (time.perf_counter() - started) * 1000)

    def _start_gateway(self, path: str) -> None:
        """Start it and wait until it answers there."""
        self.gateway.start()
        deadline = time.monotonic() + self.settings.start_s
        while not self.loopback.answers(path, _PROBE_S):
            if not self.gateway.running:
                raise EngineFailed(
                    f"the gateway ended while it started ({self.gateway.ending}):\n"
                    + self.gateway.last_lines(_ERROR_LINES)
                )
            if time.monotonic() > deadline:
                raise EngineFailed(
                    f"the gateway was not ready in {self.settings.start_s:.0f} s:\n"
                    + self.gateway.last_lines(_ERROR_LINES)
                )
            time.sleep(_POLL_S)
        self._workers = self.gateway.children()

    def _check_triton(self) -> None:
        """Raises Fault when it does not work, or one of the instances of a model does not.

        Another instance may answer the probe. When a model is unloaded its instances end as well,
        but Triton notices that at once.
        """
        if lifeless := self.triton.lifeless_instances():
            time.sleep(_NOTICE_S)
            if lifeless & self.triton.lifeless_instances():
                raise Fault("the process of an instance of a model has ended or was stopped")
        check_triton(self.triton.address, ((GRPC_HEADER, self._key),))

    def _check_gateway(self) -> None:
        """Raises Fault when it is silent; a worker that BentoML starts again has time to start."""
        silent = time.monotonic()
        while not self.loopback.answers("/livez", _PROBE_S):
            known = self.gateway.children() == self._workers
            patience_s = _HUNG_S if known else self.settings.start_s
            if time.monotonic() - silent > patience_s:
                raise Fault(f"no answer on /livez in {patience_s:.0f} s")
            time.sleep(_POLL_S)
        self._workers = self.gateway.children()


def stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt, once: stopping is not interrupted."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def _home(settings: ServeSettings, gateway: GatewaySettings) -> Path:
    """Folder of this gateway: BentoML wants one for each server."""
    return settings.state.resolve() / f"gateway-{gateway.http_port}"


def _default_model(repository: Path, gateway: GatewaySettings) -> str:
    """The model of the setting; where nobody chose it and the repository lacks it, the first."""
    names = [model.name for model in list_models(repository)]
    if not names or gateway.default_model in names:
        return gateway.default_model
    if "default_model" in gateway.model_fields_set:
        raise InvalidOption(
            f"NUCLEI_DEFAULT_MODEL is {gateway.default_model!r}, which is not in {repository}; "
            f"expected one of {', '.join(names)}"
        )
    return names[0]


def gateway_command(drain_s: float) -> list[str]:
    """What starts the gateway.

    Args:
        drain_s: of its settings. Without a limit of its own the HTTP server would wait for idle
            TLS connections until their callers hang up.
    """
    return [
        *(sys.executable, "-m", "bentoml", "serve", SERVICE),
        *("--working-dir", str(ROOT)),
        *("--timeout-graceful-shutdown", str(math.ceil(drain_s + _LAST_ANSWERS_S))),
    ]


def _gateway_environment(
    settings: ServeSettings, gateway: GatewaySettings, triton_address: str, key: str
) -> dict[str, str]:
    return {
        **os.environ,
        "BENTOML_HOME": str(_home(settings, gateway) / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "NUCLEI_TRITON_ADDRESS": triton_address,
        "NUCLEI_TRITON_KEY": key,
        "NUCLEI_DEFAULT_MODEL": _default_model(settings.repository, gateway),
    }
