"""Triton's control API: what it has loaded, loading and unloading."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from nuclei.errors import EngineFailed, EngineUnavailable, ModelNotFound, NucleiError
from nuclei.quoting import printable, shortened

READY = "READY"
# Of Triton's `--grpc-restricted-protocol=...:control-key=KEY`.
KEY_HEADER = "triton-grpc-protocol-control-key"
_ANSWER_S = 5.0
# OpenVINO compiles for each of two instances, on a machine that serves meanwhile.
_LOAD_S = 300.0
_REASON_CHARACTERS = 1000
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 2**28),
)
_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class IndexEntry:
    """A model version of Triton's repository.

    Attributes:
        name: of the model.
        version: its number; 0 for a model that was never loaded.
        state: `READY`, `UNAVAILABLE`, `LOADING`, `UNLOADING`; empty when it was never loaded.
        reason: why it is not ready.
    """

    name: str
    version: int
    state: str
    reason: str


class TritonControl:
    """The control API of one Triton. Each call opens a connection: Triton may have been restarted.

    Every method raises EngineUnavailable when Triton does not answer in time, EngineFailed when it
    answers with a failure of its own.
    """

    def __init__(self, address: str, key: str = "") -> None:
        """Name the server; nothing is sent yet.

        Args:
            address: host:port of its gRPC API, or `unix:` and the path of its socket.
            key: of its control API, where others can reach the address, too.
        """
        self.address = address
        self._key = key

    def is_live(self) -> bool:
        """Whether it answers at all; never raises."""
        try:
            return bool(self._call("ServerLive", pb.ServerLiveRequest()).live)
        except NucleiError:
            return False

    def is_ready(self, model: str) -> bool:
        """Whether it says that it can answer for a model."""
        return bool(self._call("ModelReady", pb.ModelReadyRequest(name=model)).ready)

    def index(self) -> list[IndexEntry]:
        """The models in its repository, loaded or not."""
        answer = self._call("RepositoryIndex", pb.RepositoryIndexRequest())
        return [
            IndexEntry(entry.name, int(entry.version or 0), entry.state, entry.reason)
            for entry in answer.models
        ]

    def ready(self) -> frozenset[tuple[str, int]]:
        """Names and versions of the models that are ready."""
        return frozenset(
            (entry.name, entry.version) for entry in self.index() if entry.state == READY
        )

    def config(self, model: str) -> ModelConfig:
        """The configuration of a model that is loaded; raises ModelNotFound when it is not."""
        return self._call("ModelConfig", pb.ModelConfigRequest(name=model)).config

    def idle_s(self, model: str) -> float:
        """Seconds since a model was last asked for an inference; infinite when it never was.

        Raises:
            ModelNotFound: it is not loaded.
        """
        request = pb.ModelStatisticsRequest(name=model)
        stats = self._call("ModelStatistics", request).model_stats
        last_ms = max((entry.last_inference for entry in stats), default=0)
        return time.time() - last_ms / 1000 if last_ms else math.inf

    def load(self, model: str) -> None:
        """Load a model as its repository has it, and the steps of an ensemble that are not loaded.

        What is loaded already is replaced when its files have changed, and serves until then.

        Raises:
            EngineFailed: it cannot be loaded; the message says why, which may be its files as well
                as a lack of memory.
        """
        request = pb.RepositoryModelLoadRequest(model_name=model)
        try:
            self._call("RepositoryModelLoad", request, _LOAD_S)
        except (ModelNotFound, EngineFailed) as error:
            raise EngineFailed(f"Triton cannot load '{model}': {error}") from error

    def unload(self, model: str) -> None:
        """Unload a model; steps of an ensemble stay. Harmless when it is not loaded.

        It returns at once: inferences that have begun are finished, new ones refused.
        """
        try:
            self._call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=model))
        except ModelNotFound:
            return

    def _call(self, method: str, request: Any, timeout_s: float = _ANSWER_S) -> Any:
        shown = ((KEY_HEADER, self._key),) if self._key else ()
        with self._translated(), grpc.insecure_channel(self.address, _OPTIONS) as channel:
            call = getattr(GRPCInferenceServiceStub(channel), method)
            return call(request, timeout=timeout_s, metadata=shown)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if KEY_HEADER in details:
                raise EngineUnavailable(
                    "Triton does not take the key of its control API: the file that "
                    "NUCLEI_TRITON_KEY_FILE names must hold the one that Triton was started with"
                ) from error
            if code in _SILENT:
                raise EngineUnavailable(f"Triton does not answer ({code.name})") from error
            reason = shortened(printable(details), _REASON_CHARACTERS)
            if code == grpc.StatusCode.NOT_FOUND or "unknown model" in details:
                raise ModelNotFound(reason) from error
            raise EngineFailed(f"{reason} ({code.name})") from error
