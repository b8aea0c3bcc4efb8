"""The gateway as a child process, which forks the one that serves (`serving.gateway.forks`)."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
import weakref
from pathlib import Path

from nuclei.errors import InvalidOption
from nuclei.process.child import private_folder
from nuclei.process.ports import check_free
from serving.gateway.forks import REQUEST
from serving.gateway.settings import GatewaySettings
from serving.repository.listing import model_names
from serving.settings import ServeSettings
from serving.supervision.answering_child import AnsweringChild
from serving.supervision.loopback import Loopback

COMMAND = (sys.executable, "-m", "serving.gateway")

_HUNG_S = 6.0
# The process that forks says at once how the one that serves has ended.
_TOLD_S = 1.0
_POLL_S = 0.02


class GatewayProcess(AnsweringChild):
    """One gateway on the address of its settings."""

    def __init__(
        self, settings: ServeSettings, gateway: GatewaySettings, triton_address: str
    ) -> None:
        """Describe the process; `start` starts it.

        Args:
            settings: of the service.
            gateway: what the process will read from the environment.
            triton_address: of Triton's gRPC API.

        Raises:
            InvalidOption: the repository does not hold the default model that was asked for, or
                the gateway's certificates cannot be used.
            InvalidData: a model's configuration cannot be read.
        """
        self.loopback = Loopback(gateway)
        self._settings = gateway
        self._stop_s = settings.stop_s
        self.home = settings.state.resolve() / f"gateway-{gateway.http_port}"
        # BentoML makes a temporary folder, which a gateway that is killed leaves. On a full disk
        # Python takes the second.
        self._scratch = self.home / "scratch"
        environment = {
            **os.environ,
            "TMPDIR": str(self._scratch),
            "TEMP": "/dev/shm",
            "NUCLEI_TRITON_ADDRESS": triton_address,
            "NUCLEI_DEFAULT_MODEL": default_model(settings.served_repository, gateway),
        }
        if settings.sync:
            environment["NUCLEI_SYNC_HEALTH_FILE"] = str(settings.sync_health.resolve())
            environment["NUCLEI_REGISTRY"] = gateway.registry or settings.sync
        self._connection, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self._connection, self._theirs):
            weakref.finalize(self, each.close)
        self._told: str | None = None
        super().__init__(
            "the gateway",
            (*COMMAND, str(self._theirs.fileno())),
            environment,
            self.home / "gateway.log",
            answers=lambda timeout_s: self.loopback.answers("/livez", timeout_s),
            start_s=settings.start_s,
            hung_s=_HUNG_S,
            descriptors=[self._theirs.fileno()],
        )

    def check_ports(self) -> None:
        """Raises MissingPrerequisite when a port is taken or may not be used."""
        address = self._settings
        check_free(address.host, address.http_port, "HTTP", "--http-port")
        check_free(address.host, address.grpc_port, "gRPC", "--grpc-port")

    @property
    def ended(self) -> str | None:
        """How the process that serves ended, or the one that forks it; None while both run."""
        if (told := _received(self._connection)) is not None:
            self._told = told
        return self._told if self.running else self.ending

    def start(self) -> None:
        """Start it; it answers with errors as long as Triton does not. Raises as `Child.start`."""
        if not self.running:
            private_folder(self.home)
            self._scratch.mkdir(exist_ok=True)
            self._remove_remains()
            for each in (self._connection, self._theirs):
                while _received(each) is not None:  # by the process before
                    pass
            super().start()
        self._told = None
        self._connection.send(REQUEST)

    def kill(self) -> None:
        """End the process that serves at once; the one that forks stays if it works."""
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _TOLD_S
        while self.ended is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if self._told is None or not self.running:
            self.stop(0)
        self._remove_remains()

    def stop(self, timeout_s: float | None = None) -> None:
        """Stop both, and remove what they left.

        Args:
            timeout_s: seconds that it has to finish its requests; None is the setting `stop_s`.
        """
        super().stop(self._stop_s if timeout_s is None else timeout_s)
        self._remove_remains()

    def _remove_remains(self) -> None:
        for path in self._scratch.glob("*"):
            shutil.rmtree(path, ignore_errors=True)


def _received(connection: socket.socket) -> str | None:
    """The next message, None if there is none."""
    try:
        return connection.recv(64, socket.MSG_DONTWAIT).decode()
    except BlockingIOError:
        return None


def default_model(repository: Path, gateway: GatewaySettings) -> str:
    """The model of the setting; when that is unset and the repository lacks it, the first.

    Raises:
        InvalidOption: the setting names a model that the repository lacks.
        InvalidData: a model's configuration cannot be read.
    """
    names = model_names(repository)
    if not names or gateway.default_model in names:
        return gateway.default_model
    if "default_model" in gateway.model_fields_set:
        raise InvalidOption(
            f"NUCLEI_DEFAULT_MODEL is '{gateway.default_model}', which is not in {repository}; "
            f"expected one of {', '.join(names)}"
        )
    return names[0]
