"""The engine that runs graphs on Triton servers, over their asynchronous gRPC protocol."""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from nuclei.inference.engine import ServedVersion
from nuclei.inference.graph import IMAGE, RANGE, TTA_SUFFIX, TTA_VIEWS, has_weights, step_name
from nuclei.inference.model_config import contract_of, is_model, routing_of
from nuclei.inference.routing import Routing
from nuclei.names import is_name
from nuclei.postprocessing.accumulation import Outputs
from nuclei.processor import noted_precision
from serving import tracing
from serving.budget import PixelBudget
from serving.logs import Event

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

CONTROL_TIMEOUT_S = 5.0
UNIX = "unix:"
# A tile that two servers have failed on is given to no third: it may be what they fail on.
MAX_FAILURES = 2
# How long a server that failed on a graph gets its tiles only where no other can take them.
FAILING_S = 5.0
_LEAVING_POLL_S = 0.1

# A tile's maps arrive in one HTTP/2 frame instead of fifty.
HTTP2_FRAME_BYTES = 2**22

# A server that is back is found at once; gRPC's default back-off grows to two minutes.
RECONNECT_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),
    # In spite of its name, how long an attempt may take: a busy Triton answers late.
    ("grpc.min_reconnect_backoff_ms", 5000),
)
# A connection to a machine that is gone, which takes no more bytes, ends after 5 s: Linux's
# TCP_USER_TIMEOUT, which gRPC sets where it is to ping. It is to after ten minutes of silence,
# which catalogues prevent: Triton ends connections with more than a ping in five minutes.
DEAD_PEER_OPTIONS = (
    ("grpc.keepalive_time_ms", 600_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


@dataclass(frozen=True)
class Catalogue:
    """What one Triton serves at a moment.

    Attributes:
        routings: which version a model's name means, by name.
        failures: why that cannot be read, by name.
        graphs: names of all graphs that are ready.
    """

    routings: Mapping[str, Routing]
    failures: Mapping[str, EngineFailed]
    graphs: frozenset[str]


class TritonEngine:
    """Runs graphs on Triton servers; must be created, used and closed in one event loop.

    Each server has a channel of its own, and a tile goes to the one that has the least to do of
    those that have its graph. One that is lost on the way is asked again of another: an inference
    changes nothing, so that it is safe.

    Attributes:
        answered_s: when an inference was last answered, on the monotonic clock.
    """

    def __init__(self, addresses: list[str], pixels: int, max_message_bytes: int) -> None:
        """Open channels; nothing is sent yet.

        Args:
            addresses: of each server's gRPC API, host:port, or `unix:` and the path of its socket.
            pixels: most in inference at once on each, each view of a tile counted; others wait for
                their turn, and a larger tile runs alone.
            max_message_bytes: longest message in either direction.
        """
        self._pixels = pixels
        self._max_message_bytes = max_message_bytes
        self._fixed = [self._server(address) for address in addresses]
        self._found: dict[str, _Server] = {}
        self._leaving: dict[asyncio.Task[None], _Server] = {}
        self._turns = itertools.count()
        self.answered_s = -math.inf

    def _server(self, address: str) -> "_Server":
        return _Server(address, self._pixels, self._max_message_bytes)

    @property
    def _servers(self) -> list["_Server"]:
        return [*self._fixed, *self._found.values()]

    @property
    def servers(self) -> int:
        """How many servers it knows."""
        return len(self._servers)

    @property
    def servers_answering(self) -> int:
        """How many of them answered when they were last asked."""
        return sum(server.answers for server in self._servers)

    def reach(self, addresses: Collection[str]) -> None:
        """Use the servers at these addresses, besides those of the start, from now on.

        One that is no longer among them gets no more tiles, and finishes those that it has.
        """
        for address in self._found.keys() - set(addresses):
            server = self._found.pop(address)
            task = asyncio.create_task(server.leave())
            self._leaving[task] = server
            task.add_done_callback(self._leaving.pop)
        for address in addresses:
            if address not in self._found:
                self._found[address] = self._server(address)

    @property
    def is_reachable(self) -> bool:
        """Whether a server could be reached when it was last asked for anything."""
        return any(server.reachable for server in self._servers)

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Outputs:
        """Run one tile through an ensemble, on the server that has the least to do.

        Where that refuses it, any other is asked; where it fails or ends meanwhile, one other.

        Args:
            graph: name of the ensemble.
            outputs: names of the tensors that are wanted.
            image: uint16 [H, W, C], C 1 or 3.
            intensity: float32 [2], the range [lo, hi].
            deadline: when the caller gives up; Triton learns of it.

        Raises:
            ModelNotFound: no server that answers has it.
            EngineUnavailable, EngineFailed, Overloaded, DeadlineExceeded.
        """

        def ask(server: _Server) -> Awaitable[Outputs]:
            server.turn = next(self._turns)
            return server.infer(graph, outputs, image, intensity, deadline)

        answered = await _first_answer(self._ranked(graph), ask)
        self.answered_s = time.monotonic()
        return answered

    def _ranked(self, graph: str) -> list["_Server"]:
        """All servers; first who can answer, with the least to do, longest not asked."""
        return sorted(
            self._servers,
            key=lambda server: (
                not server.answers,
                graph not in server.graphs,
                server.fails_on(graph),
                server.pixels,
                server.turn,
            ),
        )

    async def catalogues(self) -> list[Catalogue]:
        """What the servers serve, of those that answer.

        One that did not answer last is asked, and not waited for where another answers: a machine
        that is gone must not hold up what the others say.

        Raises:
            EngineUnavailable: none answers.
            EngineFailed: none says what it serves.
        """
        servers = self._servers
        expected = [server.question() for server in servers if server.answers]
        others = [server.question() for server in servers if not server.answers]
        for asked in (expected, others):
            if asked:
                await asyncio.wait(asked)
            # One is cancelled where its server is closed meanwhile.
            done = [
                question
                for question in (*expected, *others)
                if question.done() and not question.cancelled()
            ]
            if found := [each.result() for each in done if each.exception() is None]:
                return found
        for question in done:
            await question
        raise EngineUnavailable(
            "no address of the inference server is known yet; send again once the service is ready"
        )

    async def contract(self, graph: str) -> Contract:
        """The contract of a graph that is ready.

        Raises:
            ModelNotFound: no server that answers has it.
            EngineUnavailable: none answers.
            EngineFailed: the contract cannot be read.
        """
        config = await _first_answer(self._ranked(graph), lambda server: server.config(graph))
        return _contract_of(config)

    def precision(self, served: ServedVersion) -> str:
        """In which the networks of a version compute, `bf16` or `fp32`; empty where it is unknown.

        It is known of a server that is reached by a socket, in whose folder its models note it.
        """
        files = served.contract.method.graphs.files()
        steps = [
            step_name(served.contract.family, file, int(served.version))
            for file in files
            if has_weights(file)
        ]
        folders = [server.folder for server in self._servers if server.folder is not None]
        noted = {noted_precision(folder, step) for folder in folders for step in steps}
        return ", ".join(sorted(noted - {""}))

    async def are_ready(self, graphs: Sequence[str], timeout_s: float) -> bool:
        """Whether a server answers within the time and has every graph ready."""
        asked = [
            asyncio.ensure_future(server.are_ready(graphs, timeout_s)) for server in self._servers
        ]
        try:
            for answer in asyncio.as_completed(asked):
                if await answer:
                    return True
        finally:
            for each in asked:
                each.cancel()
        return False

    async def close(self) -> None:
        leaving = list(self._leaving.items())
        for task, _ in leaving:
            task.cancel()
        for server in (*self._servers, *(server for _, server in leaving)):
            await server.close()


class _Server:
    """One Triton.

    Attributes:
        folder: in which its models note their precision; None where it is not known.
        pixels: in inference, or waiting for their turn.
        answers: whether it answered when it was last asked.
        reachable: whether it could be reached then, whether or not it answered in time.
        graphs: that were ready when it last said so.
        turn: when it was last given a tile, by the count of all tiles.
    """

    def __init__(self, address: str, pixels: int, max_message_bytes: int) -> None:
        self._client = InferenceServerClient(
            address,
            channel_args=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.http2.max_frame_size", HTTP2_FRAME_BYTES),
                ("grpc.enable_http_proxy", 0),
                *RECONNECT_OPTIONS,
                *DEAD_PEER_OPTIONS,
            ],
        )
        # A socket lies in the folder of Triton.
        self.folder = Path(address.removeprefix(UNIX)).parent if address.startswith(UNIX) else None
        self._budget = PixelBudget(pixels)
        self.pixels = 0
        self.answers = self.reachable = True
        self.graphs: frozenset[str] = frozenset()
        self.turn = -1
        self._failed_s: dict[str, float] = {}
        self._question: asyncio.Task[Catalogue] | None = None

    def fails_on(self, graph: str) -> bool:
        """Whether it has failed on a tile of this graph a moment ago."""
        return time.monotonic() - self._failed_s.get(graph, -math.inf) < FAILING_S

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Outputs:
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
        return {name: result.as_numpy(name) for name in outputs}

    def question(self) -> asyncio.Task[Catalogue]:
        """What it serves: the question that waits for its answer, or a new one."""
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._catalogue())
            # Nobody may wait for it.
            self._question.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._question

    async def _catalogue(self) -> Catalogue:
        async with self._asking_about("repository"):
            # Of the models that are ready; their index is a part of the control API.
            answer = await self._client.get_inference_statistics(client_timeout=CONTROL_TIMEOUT_S)
        # Callers cannot ask for others.
        ready = {entry.name for entry in answer.model_stats if is_name(entry.name)}
        routings, failures = {}, {}
        # A version has a dot in its name, and a step that models share has no variant.
        for name in sorted(ready):
            if "." in name or name + TTA_SUFFIX not in ready:
                continue
            try:
                config = await self.config(name)
                if is_model(config):
                    routings[name] = _routing_of(config)
            except ModelNotFound:
                pass  # unloaded meanwhile
            except EngineFailed as error:
                failures[name] = error
        self.graphs = frozenset(ready)
        return Catalogue(routings, failures, self.graphs)

    async def config(self, model: str) -> ModelConfig:
        async with self._asking_about(model):
            response = await self._client.get_model_config(model, client_timeout=CONTROL_TIMEOUT_S)
        return response.config

    async def are_ready(self, graphs: Sequence[str], timeout_s: float) -> bool:
        try:
            for graph in graphs:
                with _translated(graph):
                    if not await self._client.is_model_ready(graph, client_timeout=timeout_s):
                        return False
        except NucleiError:
            return False
        return True

    async def leave(self) -> None:
        """Close once it has answered all of its tiles, and what it was asked about itself."""
        while self.pixels or (self._question is not None and not self._question.done()):
            await asyncio.sleep(_LEAVING_POLL_S)
        await self.close()

    async def close(self) -> None:
        if self._question is not None:
            self._question.cancel()
        await self._client.close()

    @asynccontextmanager
    async def _asking(self, model: str) -> AsyncIterator[None]:
        """Turn Triton's errors into ours, and note whether it answers.

        A server that is shutting down has unloaded its models, and still answers: NOT_FOUND. It is
        then not live; readiness may depend on whether it loads or unloads any model.
        """
        try:
            with _translated(model):
                yield
            self.answers = self.reachable = True
        except ModelNotFound:
            if await self._is_live():
                raise
            self.answers = self.reachable = False
            raise _unavailable() from None
        except EngineUnavailable:
            self.answers = self.reachable = False
            raise
        except EngineFailed:
            self._failed_s[model] = time.monotonic()
            raise

    @asynccontextmanager
    async def _asking_about(self, subject: str) -> AsyncIterator[None]:
        """As `_asking`; a server that takes too long, or ends meanwhile, does not answer."""
        try:
            async with self._asking(subject):
                yield
        except (DeadlineExceeded, _Lost):
            self.answers = False
            raise _unavailable() from None

    async def _is_live(self) -> bool:
        try:
            return bool(await self._client.is_server_live(client_timeout=CONTROL_TIMEOUT_S))
        except InferenceServerException:
            return False

    @asynccontextmanager
    async def _room(self, pixels: int, deadline: Deadline) -> AsyncIterator[None]:
        self.pixels += pixels
        try:
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(deadline.left_s()):
                        await stack.enter_async_context(self._budget.spend(pixels))
                except TimeoutError as error:
                    raise DeadlineExceeded(
                        "the time ran out while waiting for a turn at the inference server; allow "
                        "more time or send fewer frames at once"
                    ) from error
                yield
        finally:
            self.pixels -= pixels


class _Lost(EngineUnavailable):
    """A server has ended, or cannot be reached any more, and may have begun with what was asked."""


async def _first_answer(
    servers: Sequence[_Server], ask: Callable[[_Server], Awaitable[Answer]]
) -> Answer:
    """The answer of the first server that has one.

    Raises ModelNotFound where one lacks the model, though others do not answer: who asked looks
    again what those that answer serve.
    """
    failures = 0
    failed: EngineFailed | None = None
    missing: ModelNotFound | None = None
    full: Overloaded | None = None
    for server in servers:
        try:
            return await ask(server)
        except ModelNotFound as error:
            missing = error
        except Overloaded as error:
            full = error
        except (_Lost, EngineFailed) as error:
            failures += 1
            failed = error if isinstance(error, EngineFailed) else failed
            if failures == MAX_FAILURES:
                break
        except EngineUnavailable:
            pass
    raise failed or missing or full or _unavailable()


def _routing_of(config: ModelConfig) -> Routing:
    try:
        return routing_of(config)
    except InvalidData as error:
        raise EngineFailed(f"model '{config.name}' cannot be used: {error}") from error


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
    # The second is said of a step while its ensemble is unloaded.
    if status == "NOT_FOUND" or "is not at ready state" in detail:
        return ModelNotFound(
            f"there is no model '{subject}'; ask for one that GetServerInfo or /v1/models lists"
        )
    if status == "DEADLINE_EXCEEDED" or "Request timeout expired" in detail:
        return DeadlineExceeded(
            f"the time ran out before '{subject}' had answered; allow more time"
        )
    if "maximum queue size" in detail:
        return Overloaded(f"the queue of '{subject}' is full; send again in a second")
    if status == "UNAVAILABLE" and "failed to connect" in detail:
        return _unavailable()
    # Triton cancels what it has not finished when its time to stop is over.
    if status in ("UNAVAILABLE", "CANCELLED"):
        return _Lost(str(_unavailable()))
    return EngineFailed(f"inference with '{subject}' failed; the server's log says why")


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable(
        "the inference server does not answer; send again once the service is ready"
    )
