"""The gateway as a child process."""

import os
import shutil
import sys
import time
from pathlib import Path

from nuclei.errors import EngineFailed, InvalidOption
from nuclei.process.child import Child, private_folder
from nuclei.process.ports import check_free
from serving.gateway.settings import GatewaySettings
from serving.repository.listing import model_names
from serving.settings import ServeSettings
from serving.supervision.loopback import Loopback
from serving.supervision.probe import Fault

COMMAND = (sys.executable, "-m", "serving.gateway")

_POLL_S = 0.2
_PROBE_S = 2.0
_HUNG_S = 6.0
_ERROR_LINES = 15


class GatewayProcess:
    """One gateway on the address of its settings."""

    def __init__(
        self, settings: ServeSettings, gateway: GatewaySettings, triton_address: str
    ) -> None:
        """Describe the process; `launch` starts it.

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
        self._start_s, self._stop_s = settings.start_s, settings.stop_s
        self.home = settings.state.resolve() / f"gateway-{gateway.http_port}"
        self.log = self.home / "gateway.log"
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
        self._child = Child("the gateway", COMMAND, environment, self.log)

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def ending(self) -> str:
        """How it ended, for messages."""
        return self._child.ending

    def cap_log(self) -> None:
        """Keep its log from growing without bound."""
        self._child.cap_log()

    def check_ports(self) -> None:
        """Raises MissingPrerequisite when a port is taken or may not be used."""
        address = self._settings
        check_free(address.host, address.http_port, "HTTP", "--http-port")
        check_free(address.host, address.grpc_port, "gRPC", "--grpc-port")

    def launch(self) -> None:
        """Start it; `wait_ready` waits for its answers. Raises OSError: nothing can be written."""
        private_folder(self.home)
        self._scratch.mkdir(exist_ok=True)
        self._remove_remains()
        self._child.start()

    def wait_ready(self) -> None:
        """Wait until it answers, with errors as long as Triton does not.

        Raises:
            EngineFailed: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + self._start_s
        while not self.loopback.answers("/livez", _PROBE_S):
            if not self._child.running:
                raise EngineFailed(
                    f"the gateway ended while it started ({self._child.ending}):\n"
                    + self._child.last_lines(_ERROR_LINES)
                )
            if time.monotonic() > deadline:
                raise EngineFailed(
                    f"the gateway was not ready in {self._start_s:.0f} s:\n"
                    + self._child.last_lines(_ERROR_LINES)
                )
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float | None = None) -> None:
        """Stop it, and remove what it left.

        Args:
            timeout_s: seconds that it has to finish its requests; None is the setting `stop_s`.
        """
        self._child.stop(self._stop_s if timeout_s is None else timeout_s)
        self._remove_remains()

    def _remove_remains(self) -> None:
        for path in self._scratch.glob("*"):
            shutil.rmtree(path, ignore_errors=True)

    def check_answers(self) -> None:
        """Raises Fault when it is silent."""
        silent = time.monotonic()
        while not self.loopback.answers("/livez", _PROBE_S):
            if time.monotonic() - silent > _HUNG_S:
                raise Fault(f"no answer on /livez in {_HUNG_S:.0f} s")
            time.sleep(_POLL_S)


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
