"""The engine that runs graphs on a Triton server, over its asynchronous gRPC protocol."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opentelemetry.trace import SpanKind
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from nuclei.errors import (
    DeadlineExceeded,
    EngineFailed,
    EngineUnavailable,
    InvalidData,
    ModelNotFound,
    NucleiError,
    Overloaded,
)
from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import Inference
from nuclei.inference.graph import IMAGE, RANGE, TTA_SUFFIX, TTA_VIEWS, has_weights, step_name
from nuclei.inference.model_config import contract_of, has_contract
from nuclei.names import is_name
from nuclei.processor import noted_precision
from serving import tracing
from serving.budget import PixelBudget
from serving.logs import Event

logger = logging.getLogger(__name__)

CONTROL_TIMEOUT_S = 5.0
UNIX = "unix:"

# A tile's maps arrive in one HTTP/2 frame instead of fifty.
HTTP2_FRAME_BYTES = 2**22

# A server that is back is found at once; gRPC's default back-off grows to two minutes.
RECONNECT_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),
    # In spite of its name, how long an attempt may take: a busy Triton answers late.
    ("grpc.min_reconnect_backoff_ms", 5000),
)


@dataclass(frozen=True)
class ServedModel:
    """A model that Triton serves now.

    Attributes:
        name: name of the ensemble.
        version: the version that answers, Triton's directory number.
        tta: whether its graph with test-time augmentation is served too.
        contract: the contract of that version.
        precision: in which its networks compute on Triton's processor, `bf16` or `fp32`; empty when
            unknown.
    """

    name: str
    version: str
    tta: bool
    contract: Contract
    precision: str


class TritonEngine:
    """Runs graphs on one Triton server; must be created, used and closed in one event loop.

    Attributes:
        answered_s: when an inference was last answered, on the monotonic clock.
    """

    def __init__(
        self,
        address: str,
        pixels: int,
        max_message_bytes: int,
    ) -> None:
        """Open a channel; nothing is sent yet.

        Args:
            address: host:port of Triton's gRPC endpoint, or `unix:` and the path of its socket.
            pixels: most in inference at once, each view of a tile counted; others wait for their
                turn, and a larger tile runs alone.
            max_message_bytes: longest message in either direction.
        """
        self._client = InferenceServerClient(
            address,
            channel_args=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.http2.max_frame_size", HTTP2_FRAME_BYTES),
                ("grpc.enable_http_proxy", 0),
                *RECONNECT_OPTIONS,
            ],
        )
        # A socket lies in the folder of Triton, where its models note in which precision they work.
        is_socket = address.startswith(UNIX)
        self._folder = Path(address.removeprefix(UNIX)).parent if is_socket else None
        self._budget = PixelBudget(pixels)
        self.answered_s = -math.inf
        self._contracts: dict[str, Contract] = {}
        self._versions: dict[str, str] = {}

    async def contract(self, model: str) -> Contract:
        """The contract of the version served now, fetched again once another version answers.

        Raises:
            ModelNotFound: Triton does not serve it, or it is only a step of a model.
            EngineUnavailable: Triton does not answer.
            EngineFailed: the contract cannot be read.
        """
        if model not in self._contracts:
            self._contracts[model] = _contract_of(await self._config(model))
        return self._contracts[model]

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Inference:
        """Run one tile through an ensemble.

        Args:
            graph: name of the ensemble.
            outputs: names of the tensors that are wanted.
            image: uint16 [H, W, C], C 1 or 3.
            intensity: float32 [2], the range [lo, hi].
            deadline: when the caller gives up; Triton learns of it.

        Raises:
            ModelNotFound, EngineUnavailable, EngineFailed, Overloaded, DeadlineExceeded.
        """
        views = TTA_VIEWS if graph.endswith(TTA_SUFFIX) else 1
        async with self._room(views * image.shape[0] * image.shape[1], deadline):
            inputs = [_input(IMAGE, "UINT16", image), _input(RANGE, "FP32", intensity)]
            async with self._asking(graph):
                with tracing.spanned(*_call(graph), kind=SpanKind.CLIENT):
                    result = await self._client.infer(
                        graph,
                        inputs,
                        outputs=[InferRequestedOutput(name) for name in outputs],
                        client_timeout=deadline.left_s(),
                        headers=tracing.triton_headers(),
                    )
        self.answered_s = time.monotonic()
        response = result.get_response()
        self._note_version(graph, response.model_version)
        answered = {name: result.as_numpy(name) for name in outputs}
        return Inference(answered, response.model_version)

    async def models(self) -> list[ServedModel]:
        """The models served now, by name.

        Raises:
            EngineUnavailable: Triton does not answer.
            EngineFailed: a contract cannot be read.
        """
        with _translated("repository"):
            index = await self._client.get_model_repository_index(client_timeout=CONTROL_TIMEOUT_S)
        ready = [entry for entry in index.models if entry.state == "READY"]
        versions = {
            name: max((entry.version for entry in ready if entry.name == name), key=int)
            # Callers cannot ask for others.
            for name in sorted({entry.name for entry in ready if is_name(entry.name)})
        }
        served = []
        for name, version in versions.items():
            config = await self._config(name)
            if has_contract(config) and not name.endswith(TTA_SUFFIX):
                tta, contract = name + TTA_SUFFIX in versions, _contract_of(config)
                precision = self._precision(contract)
                served.append(ServedModel(name, version, tta, contract, precision))
        return served

    async def is_ready(self, graphs: Sequence[str], timeout_s: float) -> bool:
        """Whether Triton answers within the time and every graph is ready."""
        try:
            for graph in graphs:
                with _translated(graph):
                    if not await self._client.is_model_ready(graph, client_timeout=timeout_s):
                        return False
        except NucleiError:
            return False
        return True

    async def close(self) -> None:
        await self._client.close()

    async def _config(self, model: str) -> ModelConfig:
        async with self._asking(model):
            response = await self._client.get_model_config(model, client_timeout=CONTROL_TIMEOUT_S)
        return response.config

    def _precision(self, contract: Contract) -> str:
        """That of the model's networks, as far as it is known."""
        if self._folder is None:
            return ""
        files = contract.method.graphs.files()
        steps = [step_name(contract.family, file) for file in files if has_weights(file)]
        return ", ".join(sorted({noted_precision(self._folder, step) for step in steps} - {""}))

    @asynccontextmanager
    async def _asking(self, model: str) -> AsyncIterator[None]:
        """Turn Triton's errors into ours.

        A server that is shutting down has unloaded its models, and still answers: NOT_FOUND.
        """
        try:
            with _translated(model):
                yield
        except ModelNotFound:
            with _translated(model):
                if await self._client.is_server_ready(client_timeout=CONTROL_TIMEOUT_S):
                    raise
            raise _unavailable() from None

    @asynccontextmanager
    async def _room(self, pixels: int, deadline: Deadline) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(deadline.left_s()):
                    await stack.enter_async_context(self._budget.spend(pixels))
            except TimeoutError as error:
                raise DeadlineExceeded(
                    "the time ran out while waiting for a turn at the inference server; allow more "
                    "time or send fewer frames at once"
                ) from error
            yield

    def _note_version(self, graph: str, version: str) -> None:
        if self._versions.get(graph) != version:
            self._versions[graph] = version
            self._contracts.clear()


def _contract_of(config: ModelConfig) -> Contract:
    try:
        return contract_of(config)
    except InvalidData as error:
        # A fault of the operator, not of the caller.
        raise EngineFailed(f"model '{config.name}' cannot be used: {error}") from error


def _call(graph: str) -> tuple[str, dict[str, str | int]]:
    """Name and attributes of the span of an inference, by OpenTelemetry's conventions."""
    service, method = "inference.GRPCInferenceService", "ModelInfer"
    attributes: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "nuclei.graph": graph,
    }
    return f"{service}/{method}", attributes


def _input(name: str, datatype: str, values: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


@contextmanager
def _translated(subject: str) -> Iterator[None]:
    """Turn Triton's errors into ours.

    Triton's text goes to the log only: it contains tracebacks and paths.
    """
    try:
        yield
    except InferenceServerException as error:
        translated = _translate(error, subject)
        if isinstance(translated, EngineFailed):
            status, detail = error.status(), error.message()
            logger.error(Event("triton", subject=subject, status=status, detail=detail))
        raise translated from error


def _translate(error: InferenceServerException, subject: str) -> NucleiError:
    status = (error.status() or "").removeprefix("StatusCode.")
    detail = error.message() or ""
    if status == "NOT_FOUND":
        return ModelNotFound(
            f"there is no model '{subject}'; ask for one that GetServerInfo or /v1/models lists"
        )
    if status == "DEADLINE_EXCEEDED" or "Request timeout expired" in detail:
        return DeadlineExceeded(
            f"the time ran out before '{subject}' had answered; allow more time"
        )
    if "maximum queue size" in detail:
        return Overloaded(f"the queue of '{subject}' is full; send again in a second")
    if status == "UNAVAILABLE":
        return _unavailable()
    return EngineFailed(f"inference with '{subject}' failed; the server's log says why")


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable(
        "the inference server does not answer; send again once the service is ready"
    )
