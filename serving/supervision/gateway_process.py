"""The gateway as a child process."""

import os
import shutil
import sys
from pathlib import Path

from nuclei.errors import InvalidOption
from nuclei.process.child import private_folder
from nuclei.process.ports import check_free
from serving.gateway.settings import GatewaySettings
from serving.repository.listing import model_names
from serving.settings import ServeSettings
from serving.supervision.answering_child import AnsweringChild
from serving.supervision.loopback import Loopback

COMMAND = (sys.executable, "-m", "serving.gateway")

_HUNG_S = 6.0


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
        super().__init__(
            "the gateway",
            COMMAND,
            environment,
            self.home / "gateway.log",
            answers=lambda timeout_s: self.loopback.answers("/livez", timeout_s),
            start_s=settings.start_s,
            hung_s=_HUNG_S,
        )

    def check_ports(self) -> None:
        """Raises MissingPrerequisite when a port is taken or may not be used."""
        address = self._settings
        check_free(address.host, address.http_port, "HTTP", "--http-port")
        check_free(address.host, address.grpc_port, "gRPC", "--grpc-port")

    def start(self) -> None:
        """Start it; it answers with errors as long as Triton does not. Raises as `Child.start`."""
        private_folder(self.home)
        self._scratch.mkdir(exist_ok=True)
        self._remove_remains()
        super().start()

    def stop(self, timeout_s: float | None = None) -> None:
        """Stop it, and remove what it left.

        Args:
            timeout_s: seconds that it has to finish its requests; None is the setting `stop_s`.
        """
        super().stop(self._stop_s if timeout_s is None else timeout_s)
        self._remove_remains()

    def _remove_remains(self) -> None:
        for path in self._scratch.glob("*"):
            shutil.rmtree(path, ignore_errors=True)


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
