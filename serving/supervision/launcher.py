"""Triton, the gateway and sync as one service on this machine: started, checked, stopped."""

import logging
import time
from contextlib import suppress

from nuclei.addresses import Addresses, forget, note
from nuclei.errors import EngineFailed
from nuclei.process.ports import LOOPBACK, reachable
from serving.gateway.certificates import loopback_identity
from serving.gateway.settings import GatewaySettings
from serving.logs import Event
from serving.settings import ServeSettings
from serving.supervision.answering_child import AnsweringChild
from serving.supervision.gateway_process import GatewayProcess
from serving.supervision.loopback import Loopback
from serving.supervision.probe import Fault, check_triton
from serving.supervision.self_check import SelfCheck, self_check
from serving.supervision.supervisor import Part
from serving.supervision.sync_process import SyncProcess
from serving.triton.server import TritonServer

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_CHECK_INTERVAL_S = 1.0
# A probe costs Triton some work; looking at its processes does not.
_INSTANCES_INTERVAL_S = 0.25
_PROBE_INTERVAL_S = 2.0
# Triton itself notices within this time that an instance of a model has ended.
_NOTICE_S = 0.3


class Service:
    """Triton, the gateway and sync; stopping ends all, in the order in which nothing is lost."""

    def __init__(self, settings: ServeSettings, gateway: GatewaySettings) -> None:
        """Describe the service; its `parts` are started by a supervisor.

        Args:
            settings: of the service.
            gateway: what the gateway will read from the environment.

        Raises:
            InvalidOption, InvalidData: as `GatewayProcess`.
        """
        self.settings = settings
        self.triton = TritonServer(
            settings.served_repository,
            settings.state,
            metrics_port=settings.triton_metrics_port,
            environment=settings.triton_environment,
            traces=gateway.traces,
        )
        self.gateway = GatewayProcess(settings, gateway, self.triton.address)
        self.sync: SyncProcess | None = None
        if settings.sync:
            self.sync = SyncProcess(settings, self.triton.address, self.loopback.http_url)
        self._next_probe = 0.0
        self._identity = loopback_identity(gateway)

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
        if self.sync is not None:
            self.sync.check_port()
        self.triton.check()

    def note_addresses(self) -> None:
        """Write down where its parts listen, until `stop`, for whoever watches them."""
        settings, loopback = self.settings, self.loopback
        sync = f"{reachable(settings.sync_host)}:{settings.sync_port}" if self.sync else None
        addresses = Addresses(
            gateway=loopback.http_url.partition("://")[2],
            grpc=loopback.grpc_address,
            triton=f"{LOOPBACK}:{self.triton.metrics_port}",
            sync=sync,
            tls=self._identity,
        )
        try:
            note(self.gateway.home, addresses)
        except OSError as error:  # a full disk: callers are served all the same
            logger.warning(Event("addresses_not_noted", why=str(error)))

    def self_check(self) -> list[SelfCheck]:
        """Segment the frame of the settings with every model, once the gateway has found Triton.

        Raises:
            EngineFailed: it does not find it in time.
            NucleiError: as `self_check.self_check`.
        """
        deadline = time.monotonic() + self.settings.start_s
        while not self.loopback.answers("/readyz", _CHECK_INTERVAL_S):
            if time.monotonic() > deadline:
                raise EngineFailed(
                    f"the gateway was not ready in {self.settings.start_s:.0f} s; "
                    f"{self.gateway.log} says why"
                )
            time.sleep(_POLL_S)
        with self.loopback.client() as client:
            return self_check(client, self.settings.check_frame, self.settings.start_s)

    def parts(self) -> list[Part]:
        """The servers, as a supervisor starts and watches them."""
        return [
            Part(
                "triton",
                launch=self.triton.launch,
                wait_ready=self.triton.wait_ready,
                kill=lambda: self.triton.stop(0),
                ended=lambda: self.triton.ended,
                check=self._check_triton,
                check_interval_s=_INSTANCES_INTERVAL_S,
                tidy=self.triton.cap_log,
            ),
            _part("gateway", self.gateway),
            *([_part("sync", self.sync)] if self.sync else []),
        ]

    def stop(self) -> None:
        """Stop sync, then the gateway, which finishes its requests, then Triton.

        Harmless before a start.
        """
        try:
            if self.sync is not None:
                self.sync.stop()
        finally:
            try:
                self.gateway.stop()
            finally:
                self.triton.stop()
                with suppress(OSError):
                    forget(self.gateway.home)

    def _check_triton(self) -> None:
        """Raises Fault when it does not work, or one of the instances of a model does not.

        A probe alone would miss that: another instance may answer it. Instances also end when their
        model is unloaded, but that Triton notices at once.
        """
        if lifeless := self.triton.lifeless_instances():
            time.sleep(_NOTICE_S)
            if lifeless & self.triton.lifeless_instances():
                raise Fault("the process of an instance of a model has ended or was stopped")
        if time.monotonic() >= self._next_probe:
            check_triton(self.triton.address)
            self._next_probe = time.monotonic() + _PROBE_INTERVAL_S


def _part(name: str, child: AnsweringChild) -> Part:
    return Part(
        name,
        launch=child.start,
        wait_ready=child.wait_ready,
        kill=child.kill,
        ended=lambda: child.ended,
        check=child.check_answers,
        check_interval_s=_CHECK_INTERVAL_S,
        tidy=child.cap_log,
    )
