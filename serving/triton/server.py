"""The process of Triton Inference Server, from the wheel, with our onnxruntime backend."""

import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from nuclei.errors import EngineFailed, InvalidData, InvalidOption, MissingPrerequisite
from nuclei.inference.model_config import CONFIG_FILE
from nuclei.process.child import Child, private_folder
from nuclei.process.ports import LOOPBACK, check_free
from nuclei.repository import searched
from serving.logs import Event
from serving.repository.listing import spare_models
from serving.settings import TRITON_ENVIRONMENT
from serving.triton.backends import assemble, packages, wheel
from serving.triton.control import TritonControl
from serving.triton.machine import check_machine, has_own_libpython

logger = logging.getLogger(__name__)

_START_S = 120.0
_STOP_S = 10.0
_POLL_S = 0.1
_ERROR_LINES = 12
# Linux's longest path of a socket.
_SOCKET_PATH_BYTES = 107


class TritonServer:
    """One `tritonserver`; `with` starts it, waits for its models and stops it.

    It is called over a socket in a private folder, so no other user of this machine can: neither
    for inference nor to control it. Only its metrics have a port, on loopback.

    Attributes:
        address: of its gRPC API, `unix:` and the path of the socket.
        control: calls its control API.
        metrics_port: port of its metrics.
        log: file with its output.
    """

    def __init__(
        self,
        repository: Path,
        state: Path,
        *,
        metrics_port: int,
        models: Sequence[str] = (),
        environment: Path = TRITON_ENVIRONMENT,
        traces: str = "",
    ) -> None:
        """Describe the server; `start` starts it. Its output goes to the file `log`.

        Args:
            repository: model repository.
            state: folder for its backends, its log and its socket, made when missing.
            metrics_port: port of the Prometheus metrics; servers beside each other need different
                ones.
            models: models to load, and the steps of ensembles with them; none means all.
            environment: virtual environment with the wheel and onnxruntime.
            traces: OTLP/HTTP endpoint for its spans (http://host:4318/v1/traces), empty for none.
        """
        self._repository = repository.resolve()
        self._environment = environment.resolve()
        self._home = state.resolve() / f"triton-{metrics_port}"
        # Triton joins an address and a port by a colon.
        self._socket = self._home / "grpc:1"
        self.address = f"unix:{self._socket}"
        self.control = TritonControl(self.address)
        self.metrics_port = metrics_port
        self._models = models
        self._traces = traces
        # Prefix of the names of its shared memory: what a killed server left is found by its port.
        self._region = f"nuclei_{metrics_port}_"
        self.log = self._home / "triton.log"
        # In a folder of its own: the backend's stub imports from the current folder in any case.
        self._child = Child("Triton", self._command(), self._variables(), self.log, self._home)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._child.running

    @property
    def pid(self) -> int | None:
        """Process id, None when it does not run."""
        return self._child.pid

    @property
    def ended(self) -> str | None:
        """How it ended, None while it runs."""
        return self._child.ended

    def lifeless_instances(self) -> frozenset[int]:
        """Process ids of model instances that ended or were stopped while Triton counts on them."""
        return self._child.lifeless_children()

    def cap_log(self) -> None:
        """Keep its log from growing without bound."""
        self._child.cap_log()

    def check(self) -> None:
        """Check what starting needs.

        Raises:
            MissingPrerequisite: the environment, a library or a free port is missing.
            InvalidOption: the path of the state folder is too long.
            InvalidData: the repository holds no model.
        """
        if not wheel(self._environment).exists():
            raise MissingPrerequisite(
                f"there is no Triton in {self._environment}: run `make env` first"
            )
        check_machine(self._python_prefix)
        check_free(LOOPBACK, self.metrics_port, "Triton's metrics", "NUCLEI_TRITON_METRICS_PORT")
        if (excess := len(os.fsencode(self._socket)) - _SOCKET_PATH_BYTES) > 0:
            raise InvalidOption(
                f"the path of the state folder {self._home.parent} is {excess} bytes too long for "
                "a socket in it: choose another folder with --state"
            )
        if not self._wanted():
            raise InvalidData(
                f"no models in {searched(self._repository)}; expected folders with a config.pbtxt: "
                "run `nuclei export` or name another folder with --repository"
            )

    def start(self, timeout_s: float = _START_S) -> None:
        """Start the server and wait until its models answer; raises as `launch`, `wait_ready`."""
        self.launch()
        self.wait_ready(timeout_s)

    def launch(self) -> None:
        """Start the server; its models are loaded when `wait_ready` returns.

        Raises:
            MissingPrerequisite, InvalidOption, InvalidData: as `check`.
            OSError: the state folder cannot be written.
        """
        self.check()
        private_folder(self._home)
        assemble(self._environment, self._home / "backends")
        self._remove_remains()
        self._child.start()

    def wait_ready(self, timeout_s: float = _START_S) -> None:
        """Wait until the models answer.

        Args:
            timeout_s: most seconds to wait.

        Raises:
            InvalidData: a model cannot be loaded; the message says why.
            EngineFailed: the server ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self._is_live():
            if not self._child.running:
                raise EngineFailed(f"Triton ended while it started:\n{self._log_end()}")
            if time.monotonic() > deadline:
                raise EngineFailed(f"Triton did not start in {timeout_s:.0f} s:\n{self._log_end()}")
            self._close_regions()
            time.sleep(_POLL_S)
        self._check_models()
        self._close_regions()

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Stop the server, and remove whatever it left: processes and shared memory.

        Args:
            timeout_s: seconds that it has to finish its requests.
        """
        self._child.stop(timeout_s)
        self._remove_remains()

    def _remove_remains(self) -> None:
        self._socket.unlink(missing_ok=True)
        for region in self._regions():
            with suppress(FileNotFoundError):
                region.unlink()

    def _close_regions(self) -> None:
        """Let no other user read the tensors: Triton gives its shared memory mode 0644."""
        for region in self._regions():
            with suppress(FileNotFoundError):
                region.chmod(0o600)

    def _regions(self) -> Iterator[Path]:
        """The files of its shared memory: whatever others put there under its names is theirs."""
        for path in Path("/dev/shm").glob(f"{self._region}*"):
            with suppress(FileNotFoundError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    yield path

    def is_ready(self, model: str) -> bool:
        """Whether the server says it can answer for a model."""
        return self.control.is_ready(model)

    @property
    def _python_prefix(self) -> Path:
        for line in (self._environment / "pyvenv.cfg").read_text().splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "home":
                return Path(value.strip()).parent
        raise MissingPrerequisite(
            f"{self._environment} is not a virtual environment: delete it and run `make env`"
        )

    def _wanted(self) -> list[str]:
        """Names of the models that it is to load."""
        configs = sorted(self._repository.glob(f"*/{CONFIG_FILE}"))
        return list(self._models) or [config.parent.name for config in configs]

    def _command(self) -> list[str]:
        loaded = self._models or ("*",)
        return [
            str(wheel(self._environment) / "bin" / "tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._home / 'backends'}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in loaded),
            "--disable-auto-complete-config",
            "--exit-on-error=false",
            "--strict-readiness=false",
            # Without it Triton ignores the priorities of a model's instances.
            "--rate-limit=execution_count",
            f"--backend-config=python,shm-region-prefix-name={self._region}",
            "--allow-http=false",
            f"--grpc-address=unix:{self._home / 'grpc'}",
            "--grpc-port=1",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self.metrics_port}",
            "--log-format=ISO8601",
            *(_tracing(self._traces) if self._traces else ()),
        ]

    def _variables(self) -> dict[str, str]:
        libraries = [str(packages(self._environment) / "nvidia_pytriton.libs")]
        if wheel(self._environment).exists() and has_own_libpython(self._python_prefix):
            libraries.insert(0, str(self._python_prefix / "lib"))
        # Models have no use for our settings, the token among them.
        ours = {name: text for name, text in os.environ.items() if not name.startswith("NUCLEI_")}
        return {
            **ours,
            # The backend's stub takes the first `python3` of PATH.
            "PATH": f"{self._environment / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": ":".join(libraries),
            "ORT_DISABLE_TELEMETRY": "1",
        }

    def _check_models(self) -> None:
        """Raises InvalidData when a model that has to serve cannot; a spare version need not."""
        failed = [model for model in self._wanted() if not self.is_ready(model)]
        if not failed:
            return
        spare = spare_models(self._repository)
        needed = [model for model in failed if model not in spare]
        reasons = {entry.name: entry.reason for entry in self.control.index() if entry.reason}
        # An ensemble fails with its steps: a step's own reason says more.
        reasons = {n: r for n, r in reasons.items() if "ensemble" not in r} or reasons
        messages = [_message(name, reason) for name, reason in sorted(reasons.items())]
        what = f"Triton cannot load {', '.join(needed or failed)}: " + (
            "; ".join(messages) or self._log_end()
        )
        if needed:
            raise InvalidData(what)
        logger.warning(Event("not_loaded", detail=what))

    def _is_live(self) -> bool:
        return self._socket.exists() and self.control.is_live()

    def _log_end(self) -> str:
        return self._child.last_lines(_ERROR_LINES)


def _tracing(endpoint: str) -> list[str]:
    # Rate 0: only requests that carry a trace context, which are those that the gateway samples.
    settings = (
        "rate=0",
        "level=TIMESTAMPS",
        "mode=opentelemetry",
        f"opentelemetry,url={endpoint}",
        "opentelemetry,resource=service.name=triton",
    )
    return [f"--trace-config={each}" for each in settings]


def _message(model: str, reason: str) -> str:
    """A reason without what Python's backend puts around it: the error's class and a traceback."""
    message = reason.split("\n\nAt:")[0].rsplit("TritonModelException: ", 1)[-1].strip()
    return message if message.startswith(f"model '{model}'") else f"model '{model}': {message}"
