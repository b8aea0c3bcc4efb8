"""The process of Triton Inference Server, from the wheel, with our onnxruntime backend."""

import filecmp
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nuclei.errors import EngineFailed, InvalidData, MissingPrerequisite
from nuclei.inference.model_config import CONFIG_FILE
from nuclei.repository import searched
from serving.process.child import Child
from serving.process.ports import LOOPBACK, check_free
from serving.settings import TRITON_ENVIRONMENT
from serving.triton.control_key import HEADER, restrictions
from serving.triton.machine import check_machine, has_own_libpython

# Without the proxy of the environment: it is on loopback.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_BACKEND = Path(__file__).parent / "backend"
_STUB = "python_backend_stubs/3.11/triton_python_backend_stub"
_START_S = 120.0
_STOP_S = 10.0
_POLL_S = 0.1
_PROBE_S = 2.0
_ERROR_LINES = 12


class TritonServer:
    """One `tritonserver` on loopback ports; `with` starts it, waits for its models and stops it."""

    def __init__(
        self,
        repository: Path,
        state: Path,
        *,
        http_port: int,
        grpc_port: int,
        metrics_port: int,
        models: Sequence[str] = (),
        environment: Path = TRITON_ENVIRONMENT,
        key: str = "",
        traces: str = "",
    ) -> None:
        """Describe the server; `start` starts it. Its output goes to the file `log`.

        Args:
            repository: model repository.
            state: folder for its backends and its log, made when missing.
            http_port: port of KServe over HTTP.
            grpc_port: port of KServe over gRPC.
            metrics_port: port of the Prometheus metrics.
            models: models to load, and the steps of ensembles with them; none means all.
            environment: virtual environment with the wheel and onnxruntime.
            key: required to control the server (models, shared memory, tracing, logs); empty lets
                every process of this machine do so.
            traces: OTLP/HTTP endpoint for its spans (http://host:4318/v1/traces), empty for none.
        """
        self.address = f"{LOOPBACK}:{grpc_port}"
        self.url = f"http://{LOOPBACK}:{http_port}"
        self._repository = repository.resolve()
        self._environment = environment.resolve()
        self._home = state.resolve() / f"triton-{grpc_port}"
        self.ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self._models = models
        self._key = key
        self._traces = traces
        # Prefix of the names of its shared memory: what a killed server left is found by its port.
        self._region = f"nuclei_{grpc_port}_"
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
    def ending(self) -> str:
        """How it ended, for messages."""
        return self._child.ending

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
            InvalidData: the repository holds no model.
        """
        if not self._wheel.exists():
            raise MissingPrerequisite(
                f"there is no Triton in {self._environment}: run `make env` first"
            )
        check_machine(self._python_prefix)
        for name, port in self.ports.items():
            setting = f"NUCLEI_TRITON_{name.upper()}_PORT"
            check_free(LOOPBACK, port, f"Triton's {name}", setting)
        if not self._wanted():
            raise InvalidData(
                f"no models in {searched(self._repository)}; expected folders with a config.pbtxt: "
                "run `nuclei export` or name another folder with --repository"
            )

    def start(self, timeout_s: float = _START_S) -> None:
        """Start the server and wait until its models answer.

        Args:
            timeout_s: most seconds to wait.

        Raises:
            MissingPrerequisite: as `check`.
            InvalidData: a model cannot be loaded; the message says why.
            EngineFailed: the server ended, or was not ready in time.
        """
        self.check()
        self._assemble_backends()
        self._remove_regions()
        self._child.start()
        deadline = time.monotonic() + timeout_s
        while not self._get("/v2/health/live"):
            if not self._child.running:
                raise EngineFailed(f"Triton ended while it started:\n{self._log_end()}")
            if time.monotonic() > deadline:
                raise EngineFailed(f"Triton did not start in {timeout_s:.0f} s:\n{self._log_end()}")
            time.sleep(_POLL_S)
        self._check_models()

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Stop the server, and remove whatever it left: processes and shared memory.

        Args:
            timeout_s: seconds that it has to finish its requests.
        """
        self._child.stop(timeout_s)
        self._remove_regions()

    def _remove_regions(self) -> None:
        for region in Path("/dev/shm").glob(f"{self._region}*"):
            region.unlink(missing_ok=True)

    def is_ready(self, model: str) -> bool:
        """Whether the server says it can answer for a model."""
        return self._get(f"/v2/models/{model}/ready")

    @property
    def _wheel(self) -> Path:
        return self._site_packages / "pytriton" / "tritonserver"

    @property
    def _site_packages(self) -> Path:
        return self._environment / "lib" / "python3.11" / "site-packages"

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
            str(self._wheel / "bin" / "tritonserver"),
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
            *(f"--{name}-port={port}" for name, port in self.ports.items()),
            *(f"--{name}-address={LOOPBACK}" for name in self.ports),
            "--log-format=ISO8601",
            *(restrictions(self._key) if self._key else ()),
            *(_tracing(self._traces) if self._traces else ()),
        ]

    def _variables(self) -> dict[str, str]:
        libraries = [str(self._site_packages / "nvidia_pytriton.libs")]
        if self._wheel.exists() and has_own_libpython(self._python_prefix):
            libraries.insert(0, str(self._python_prefix / "lib"))
        return {
            **os.environ,
            # The backend's stub takes the first `python3` of PATH.
            "PATH": f"{self._environment / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": ":".join(libraries),
            "ORT_DISABLE_TELEMETRY": "1",
        }

    def _assemble_backends(self) -> None:
        """Copy the backends into one folder: Triton refuses links that lead out of it."""
        python = self._home / "backends" / "python"
        shutil.copytree(
            self._wheel / "backends" / "python",
            python,
            copy_function=_copy_changed,
            dirs_exist_ok=True,
        )
        _copy_changed(self._wheel / _STUB, python / Path(_STUB).name)
        (python / Path(_STUB).name).chmod(0o755)
        ours = self._home / "backends" / "onnxruntime"
        ours.mkdir(exist_ok=True)
        for file in ("model.py", "onnx_file.py", "activity.py", "processor.py"):
            _copy_changed(_BACKEND / file, ours / file)

    def _check_models(self) -> None:
        failed = [model for model in self._wanted() if not self.is_ready(model)]
        if not failed:
            return
        reasons = {entry["name"]: entry["reason"] for entry in self._index() if entry.get("reason")}
        # An ensemble fails with its steps: a step's own reason says more.
        reasons = {n: r for n, r in reasons.items() if "ensemble" not in r} or reasons
        messages = [_message(name, reason) for name, reason in sorted(reasons.items())]
        raise InvalidData(
            f"Triton cannot load {', '.join(failed)}: " + ("; ".join(messages) or self._log_end())
        )

    def _index(self) -> list[dict[str, Any]]:
        request = urllib.request.Request(f"{self.url}/v2/repository/index", method="POST")
        request.add_header(HEADER, self._key)
        with _http.open(request, timeout=_PROBE_S) as answer:
            index: list[dict[str, Any]] = json.load(answer)
        return index

    def _get(self, path: str) -> bool:
        try:
            with _http.open(self.url + path, timeout=_PROBE_S) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False

    def _log_end(self) -> str:
        return self._child.last_lines(_ERROR_LINES)


def _copy_changed(source: str | Path, target: str | Path) -> None:
    """Copy a file unless the same is there: a restart works on a full disk, too."""
    if not (os.path.exists(target) and filecmp.cmp(source, target)):
        shutil.copy2(source, target)


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
