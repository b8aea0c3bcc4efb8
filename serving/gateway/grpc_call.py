"""One gRPC call: the messages it receives, the answers it sends, and how it ends with an error."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from nuclei.client.messages import ERROR_METADATA, RETRY_METADATA
from nuclei.errors import DeadlineExceeded, InvalidOption, NucleiError, Overloaded
from nuclei.inference.deadline import Deadline
from nuclei.quoting import sentence
from serving.gateway.arrivals import Arrivals, Arrived, Arriving
from serving.gateway.grpc_messages import retry_after_ms
from serving.gateway.observation import only_known_errors
from serving.gateway.peers import name_in_grpc
from serving.gateway.upload import too_long

# For the rest of an answer, when a call ends with an error.
LAST_S = 1.0
# Longest message that asks for nothing but information, and the time in which it must arrive.
QUESTION_BYTES = 2**16
QUESTION_S = 10.0

Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M", bound=Message)


class Call:
    """A call while it is handled.

    Attributes:
        caller: HOST:PORT, the caller's end of the connection.
        metadata: what the caller sent with the call.
    """

    def __init__(self, context: Context, arrivals: Arrivals) -> None:
        self._context = context
        self._arrivals = arrivals
        self._arriving: Arriving | None = None
        self._writing: asyncio.Future[None] | None = None
        self.caller = name_in_grpc(context.peer())
        self.metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}

    @property
    def deadline(self) -> Deadline | None:
        """When the caller gives up; None when it sent no deadline."""
        left_s = self._context.time_remaining()
        return None if left_s is None else Deadline.after(left_s)

    async def read(self, kind: type[M], arrived: Arrived) -> M | None:
        """The next message, None after the last one.

        Args:
            kind: of the message.
            arrived: as for `Arrivals.begin`; what it raises ends the reading. The rest of the
                message still arrives, until the call ends.

        Raises:
            InvalidOption: it is of another kind.
        """
        message = await self._receive(arrived)
        if message is grpc.aio.EOF:
            return None
        try:
            return kind.FromString(message)
        except DecodeError as error:
            raise InvalidOption(
                f"the message is no {kind.DESCRIPTOR.full_name}; make it with the published .proto"
            ) from error

    async def read_only(self, kind: type[M], arrived: Arrived, within_s: float) -> M:
        """The message of a call that has one; it has so long to arrive.

        Raises:
            InvalidOption: there is none, or it is of another kind.
            DeadlineExceeded: it takes too long to arrive.
        """
        try:
            async with asyncio.timeout(within_s):
                message = await self.read(kind, arrived)
        except TimeoutError:
            raise too_long(within_s) from None
        if message is None:
            raise InvalidOption(
                f"the call has no message; expected one {kind.DESCRIPTOR.full_name}"
            )
        return message

    async def _receive(self, arrived: Arrived) -> Any:
        arriving = self._arriving = self._arrivals.begin(self.caller, arrived)
        receiving = asyncio.ensure_future(self._context.read())
        try:
            either = {receiving, arriving.refused}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                raise arriving.refused.result()
            message = receiving.result()
        finally:
            receiving.cancel()
        self._arrivals.end(arriving, 0 if message is grpc.aio.EOF else len(message))
        return message

    async def write(self, answer: bytes) -> None:
        """Send an answer; returns once flow control has room for more."""
        self._writing = asyncio.ensure_future(self._context.write(answer))
        self._writing.add_done_callback(_retrieve)
        await asyncio.shield(self._writing)

    async def write_only(self, answer: bytes, timeout_s: float) -> None:
        """Send the answer of a call that has one.

        Raises:
            DeadlineExceeded: the caller did not take it in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.write(answer)
        except TimeoutError:
            raise DeadlineExceeded(f"the answer was not taken within {timeout_s:.3g} s") from None

    async def abort(self, error: NucleiError) -> None:
        """End the call with an error; gRPC allows that only once a pending write is done.

        The connection of a caller that takes nothing is ended: it would keep the answer in memory.
        """
        if self._writing is not None and (await asyncio.wait({self._writing}, timeout=LAST_S))[1]:
            self._arrivals.disconnect(self.caller)
            return
        metadata = [(ERROR_METADATA, type(error).__name__)]
        if isinstance(error, Overloaded):
            metadata.append((RETRY_METADATA, str(retry_after_ms(error))))
        status = grpc.StatusCode[error.grpc_status]
        await self._context.abort(status, sentence(error), tuple(metadata))

    def close(self) -> None:
        """The call has ended, and with it what still arrived."""
        if self._arriving is not None:
            self._arrivals.end(self._arriving)


Method = Callable[[Call], Awaitable[None]]


def handler(method: Method, arrivals: Arrivals) -> "grpc.RpcMethodHandler[Any, Any]":
    """A handler for grpc.aio that runs the method; a NucleiError becomes the status of the call."""

    async def handle(requests: object, context: Context) -> None:
        with closing(Call(context, arrivals)) as call:
            try:
                with only_known_errors():
                    await method(call)
            except NucleiError as error:
                failed = error
            else:
                return
            # They refer to frames and answers, which must not stay in memory while a slow caller
            # reads.
            failed.__traceback__ = failed.__context__ = failed.__cause__ = None
            await call.abort(failed)

    return grpc.stream_stream_rpc_method_handler(handle)


def at_most(n_bytes: int) -> Arrived:
    """For `Call.read`: refuses a message that is longer."""

    def check(arrived: int, came: int) -> None:
        if arrived > n_bytes:
            raise InvalidOption(f"the message is longer than {n_bytes} bytes; expected a short one")

    return check


def _retrieve(writing: asyncio.Future[None]) -> None:
    """Retrieve how a write ended, so that asyncio does not log that the caller has hung up."""
    if not writing.cancelled():
        writing.exception()
