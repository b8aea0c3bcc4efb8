"""Triton and the gateway as one service on this machine: started, checked, stopped."""

import secrets
import time
from contextlib import ExitStack

from nuclei.errors import EngineFailed
from serving.gateway.settings import GatewaySettings
from serving.settings import ServeSettings
from serving.supervision.gateway_process import GatewayProcess
from serving.supervision.loopback import Loopback
from serving.supervision.probe import Fault, check_triton
from serving.supervision.self_check import SelfCheck, self_check
from serving.supervision.supervisor import Part
from serving.triton.control_key import GRPC_HEADER
from serving.triton.server import TritonServer

_CHECK_INTERVAL_S = 2.0
# Triton itself notices within this time that an instance of a model has ended.
_NOTICE_S = 0.5


class Service:
    """Triton and the gateway; stopping ends both, in the order in which nothing is lost."""

    def __init__(self, settings: ServeSettings, gateway: GatewaySettings) -> None:
        """Describe the service; `start` starts it.

        Args:
            settings: of the service.
            gateway: what the gateway will read from the environment.

        Raises:
            InvalidOption, InvalidData: as `GatewayProcess`.
        """
        self.settings = settings
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
        self.gateway = GatewayProcess(settings, gateway, self.triton.address, self._key)
        self._stack = ExitStack()

    @property
    def loopback(self) -> Loopback:
        """How this machine calls the gateway."""
        return self.gateway.loopback

    def check(self) -> None:
        """Check everything that starting needs, before anything is started.

        Raises:
            MissingPrerequisite: a port is taken, or this machine lacks something.
            InvalidData: the repository holds no model.
        """
        self.gateway.check_ports()
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
        self._stack.callback(self.gateway.stop)
        self.gateway.start("/readyz")
        if not self.triton.running:
            raise EngineFailed(f"Triton ended ({self.triton.ending}); {self.triton.log} says why")

    def self_check(self) -> list[SelfCheck]:
        """Segment the frame of the settings with every model; raises as `self_check.self_check`."""
        with self.loopback.client() as client:
            return self_check(client, self.settings.check_frame, self.settings.start_s)

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
                start=lambda: self.gateway.start("/livez"),
                kill=lambda: self.gateway.stop(0),
                ended=lambda: None if self.gateway.running else self.gateway.ending,
                check=self.gateway.check_answers,
                check_interval_s=_CHECK_INTERVAL_S,
                tidy=self.gateway.cap_log,
            ),
        ]

    def stop(self) -> None:
        """Stop the gateway, which finishes its requests, then Triton."""
        self._stack.close()

    def _check_triton(self) -> None:
        """Raises Fault when it does not work, or one of the instances of a model does not.

        A probe alone would miss that: another instance may answer it. Instances also end when their
        model is unloaded, but that Triton notices at once.
        """
        if lifeless := self.triton.lifeless_instances():
            time.sleep(_NOTICE_S)
            if lifeless & self.triton.lifeless_instances():
                raise Fault("the process of an instance of a model has ended or was stopped")
        check_triton(self.triton.address, ((GRPC_HEADER, self._key),))
