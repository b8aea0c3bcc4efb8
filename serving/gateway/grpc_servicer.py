"""The gRPC side of the data plane: calls in, answers out."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from nuclei.client.messages import ERROR_METADATA, RETRY_METADATA
from nuclei.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InvalidOption,
    NucleiError,
    Overloaded,
)
from nuclei.imaging.images import Frame
from nuclei.results.segmentation import Segmentation
from nuclei.v1 import segmentation_pb2 as pb
from serving.gateway.admission import Permit
from serving.gateway.data_plane import DataPlane, Options
from serving.gateway.grpc_messages import FrameRequest, server_info_message
from serving.gateway.observation import Observation, Skipped, observed, only_known_errors
from serving.gateway.racing import unless
from serving.gateway.settings import UPLOAD_S, GatewaySettings
from serving.gateway.stream import PROTOCOL as STREAM
from serving.gateway.stream import Admitted, FrameStream, OverflowPolicy

SERVICE = pb.DESCRIPTOR.services_by_name["Segmentation"].full_name
OVERFLOW: dict[int, OverflowPolicy] = {
    pb.OVERFLOW_POLICY_UNSPECIFIED: OverflowPolicy.BLOCK,
    pb.OVERFLOW_POLICY_BLOCK: OverflowPolicy.BLOCK,
    pb.OVERFLOW_POLICY_DROP_OLDEST: OverflowPolicy.DROP_OLDEST,
    pb.OVERFLOW_POLICY_LATEST_ONLY: OverflowPolicy.LATEST_ONLY,
}
DEFAULT_QUEUE_SIZE = 4

# Set aside for a message until it has arrived: 2048 x 2048 pixels of 16 bit.
EXPECTED_BYTES = 8 * 2**20

Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)


class GrpcServicer:
    """nuclei.v1.Segmentation.

    Every call is handled as a stream, which looks the same on the wire: such a handler runs before
    a message is received, so that a refused call costs nothing, and it knows when an answer has
    been taken, so that the permit can be held until then.
    """

    def __init__(self, data_plane: DataPlane, settings: GatewaySettings) -> None:
        self._data_plane = data_plane
        self._settings = settings
        self._draining = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server is to be given."""
        methods: dict[str, Method] = {
            "Segment": self._segment,
            "SegmentStream": self._segment_stream,
            "GetServerInfo": self._server_info,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.stream_stream_rpc_method_handler(_answering_errors(method))
                for name, method in methods.items()
            },
        )

    def begin_draining(self) -> None:
        """Let streams end once what they have received is answered."""
        self._draining.set()

    async def _segment(self, context: Context, answers: "_Answers") -> None:
        with ExitStack() as held:
            with observed("grpc", _metadata(context)) as observation:
                admission = self._data_plane.admission
                permit = held.enter_context(admission.admit("grpc", context.peer(), EXPECTED_BYTES))
                reply = await self._answer(context, observation, permit)
            permit.resize(min(permit.n_bytes, len(reply)))
            await self._write(answers, reply)

    async def _answer(self, context: Context, observation: Observation, permit: Permit) -> bytes:
        request = FrameRequest(await _only_message(context, pb.SegmentRequest))
        permit.resize(request.n_bytes)
        observation.bytes_in = request.n_bytes

        def encode(segmentation: Segmentation, frame: Frame) -> bytes:
            reply = pb.SegmentResponse()
            request.echo(reply)
            request.write_result(reply, segmentation, frame)
            return reply.SerializeToString()

        options = request.options(context.time_remaining())
        reply = await self._data_plane.segment(request.read, options, encode, observation, permit)
        observation.bytes_out = len(reply)
        return reply

    async def _segment_stream(self, context: Context, answers: "_Answers") -> None:
        with self._data_plane.admission.stream(STREAM):
            stream = _Stream(self._data_plane, self._settings, context, answers)
            await stream.run(self._draining)

    async def _server_info(self, context: Context, answers: "_Answers") -> None:
        with only_known_errors():
            await _only_message(context, pb.GetServerInfoRequest)
            info = server_info_message(await self._data_plane.server_info())
        await self._write(answers, info.SerializeToString())

    async def _write(self, answers: "_Answers", reply: bytes) -> None:
        try:
            async with asyncio.timeout(self._settings.reader_timeout_s):
                await answers.write(reply)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the answer was not taken within {self._settings.reader_timeout_s:.3g} s"
            ) from None


class _Answers:
    """The answers of one call."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._writing: asyncio.Future[None] | None = None

    async def write(self, answer: bytes) -> None:
        """Send one; returns once the caller has taken enough to have room for more."""
        self._writing = asyncio.ensure_future(self._context.write(answer))
        self._writing.add_done_callback(_retrieve)
        await asyncio.shield(self._writing)

    async def abort(self, error: NucleiError) -> None:
        """End the call with an error; gRPC allows that only once an answer under way is taken."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
        metadata = [(ERROR_METADATA, type(error).__name__)]
        if isinstance(error, Overloaded):
            metadata.append((RETRY_METADATA, str(_retry_after_ms(error))))
        status = grpc.StatusCode[error.grpc_status]
        await self._context.abort(status, str(error), tuple(metadata))


Method = Callable[[Context, _Answers], Awaitable[None]]


class _Stream:
    """One SegmentStream call: its messages to and from a FrameStream."""

    def __init__(
        self,
        data_plane: DataPlane,
        settings: GatewaySettings,
        context: Context,
        answers: _Answers,
    ) -> None:
        self.data_plane = data_plane
        self.settings = settings
        self.metadata = _metadata(context)
        self.overflow = OverflowPolicy.BLOCK
        self._context = context
        self._answers = answers
        self._first: pb.SegmentStreamRequest | None = None
        self._received = 0

    async def run(self, draining: asyncio.Event) -> None:
        with only_known_errors():
            settings = await self._stream_settings(draining)
            self.overflow = OVERFLOW[settings.overflow]
            stream: FrameStream[pb.SegmentStreamResponse] = FrameStream(
                self.data_plane.admission,
                # One connection may carry several streams.
                f"{self._context.peer()}#{id(self)}",
                self.overflow,
                settings.queue_size or DEFAULT_QUEUE_SIZE,
                self.settings.reader_timeout_s,
            )
            await stream.run(self._receive, self._write, draining, self.settings.drain_s)

    async def _stream_settings(self, draining: asyncio.Event) -> pb.StreamSettings:
        """Of the first message, or the defaults."""
        error = EngineUnavailable("the server is shutting down; connect again in a few seconds")
        reading = _message(self._context, pb.SegmentStreamRequest)
        self._first = await unless(reading, (draining.wait(), error))
        if self._first is None or self._first.WhichOneof("kind") != "settings":
            return pb.StreamSettings()
        settings, self._first = self._first.settings, None
        if settings.overflow not in OVERFLOW:
            raise InvalidOption(
                f"overflow {settings.overflow} is not known; expected a value of "
                "nuclei.v1.OverflowPolicy: update the client or the server"
            )
        return settings

    async def _receive(self) -> "_StreamFrame | None":
        message, self._first = self._first, None
        if message is None:
            message = await _message(self._context, pb.SegmentStreamRequest)
        if message is None:
            return None
        kind = message.WhichOneof("kind")
        if kind != "frame":
            raise InvalidOption(
                f"message {self._received} holds {kind or 'nothing'}; expected a frame: settings "
                "come once, as the first message"
            )
        frame = _StreamFrame(self, self._received, message.frame)
        self._received += 1
        return frame

    async def _write(self, answer: pb.SegmentStreamResponse) -> None:
        await self._answers.write(answer.SerializeToString())


class _StreamFrame:
    """One frame of a SegmentStream call."""

    def __init__(self, stream: _Stream, sequence: int, message: pb.StreamFrame) -> None:
        self._stream = stream
        self._sequence = sequence
        self._request = FrameRequest(message.request)
        timeout_s = message.timeout_ms / 1e3 or stream.settings.default_timeout_s
        self.deadline = asyncio.get_running_loop().time() + timeout_s
        index = message.request.frame.index
        self.position = (index.acquisition_uid, index.position)
        self.n_bytes = self._request.n_bytes

    async def answer(self, admitted: Admitted) -> pb.SegmentStreamResponse:
        try:
            with observed(STREAM, self._stream.metadata) as observation:
                options = self._request.options(None)
                observation.request_id = options.request_id
                observation.bytes_in = self.n_bytes
                async with admitted as permit:
                    answer = await self._segment(options, observation, permit)
                observation.bytes_out = answer.ByteSize()
                permit.resize(min(permit.n_bytes, observation.bytes_out))
                return answer
        except Skipped as skipped:
            answer = self._new_answer()
            answer.skipped.reason = str(skipped)
        except NucleiError as error:
            answer = self._new_answer()
            _write_error(answer.error, error)
        return answer

    async def _segment(
        self, options: Options, observation: Observation, permit: Permit
    ) -> pb.SegmentStreamResponse:
        def encode(segmentation: Segmentation, frame: Frame) -> pb.SegmentStreamResponse:
            answer = self._new_answer()
            self._request.write_result(answer.result, segmentation, frame)
            return answer

        while True:
            left_s = self.deadline - asyncio.get_running_loop().time()
            timed = replace(options, timeout_s=left_s)
            try:
                return await self._stream.data_plane.segment(
                    self._request.read, timed, encode, observation, permit
                )
            except Overloaded as error:
                if (
                    self._stream.overflow is not OverflowPolicy.BLOCK
                    or left_s < error.retry_after_s
                ):
                    raise
                permit.resize(self.n_bytes)
                await asyncio.sleep(error.retry_after_s)

    def _new_answer(self) -> pb.SegmentStreamResponse:
        answer = pb.SegmentStreamResponse(sequence=self._sequence)
        self._request.echo(answer)
        return answer


def _answering_errors(method: Method) -> Callable[[object, Context], Awaitable[None]]:
    """A handler of grpc.aio: errors of the tree become the status of the call."""

    async def handle(requests: object, context: Context) -> None:
        answers = _Answers(context)
        try:
            with only_known_errors():
                await method(context, answers)
        except NucleiError as error:
            failed = error
        else:
            return
        # What these refer to holds frames and answers, which must not wait for a slow caller.
        failed.__traceback__ = failed.__context__ = failed.__cause__ = None
        await answers.abort(failed)

    return handle


def _retrieve(writing: asyncio.Future[None]) -> None:
    """Look at how a write ended: a caller who is gone is no news."""
    if not writing.cancelled():
        writing.exception()


def _write_error(message: pb.FrameError, error: NucleiError) -> None:
    message.name = type(error).__name__
    message.code = grpc.StatusCode[error.grpc_status].value[0]
    message.message = str(error)
    if isinstance(error, Overloaded):
        message.retry_after_ms = _retry_after_ms(error)


def _retry_after_ms(error: Overloaded) -> int:
    return round(error.retry_after_s * 1e3)


def _metadata(context: Context) -> dict[str, str]:
    return {key: str(value) for key, value in context.invocation_metadata() or ()}


async def _only_message(context: Context, kind: type[M]) -> M:
    """The message of a call that has one."""
    try:
        async with asyncio.timeout(UPLOAD_S):
            message = await _message(context, kind)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the request did not arrive within {UPLOAD_S} s; compress the frame or use a faster "
            "line"
        ) from None
    if message is None:
        raise InvalidOption(f"the call has no message; expected one {kind.DESCRIPTOR.full_name}")
    return message


async def _message(context: Context, kind: type[M]) -> M | None:
    """The next message, None after the last one."""
    message = await context.read()
    if message is grpc.aio.EOF:
        return None
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidOption(
            f"the message is no {kind.DESCRIPTOR.full_name}; make it with the published .proto"
        ) from error
