"""gRPC's reflection, for tools such as grpcurl: who asks is answered, and holds little meanwhile.

gRPC's own handler would take requests of any length, and keep calls open for ever.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from nuclei.errors import DeadlineExceeded, Overloaded
from serving.gateway.admission import Account
from serving.gateway.arrivals import Arrivals
from serving.gateway.grpc_call import QUESTION_BYTES, QUESTION_S, Call, at_most, handler

SERVICE: str = reflection.SERVICE_NAME
MAX_CALLS = 64


class Reflection:
    """What tools learn about the services of a server."""

    def __init__(self, services: tuple[str, ...], arrivals: Arrivals) -> None:
        """Args: services: their full names; arrivals: of the server."""
        self._servicer: Any = reflection.aio.ReflectionServicer(services)
        self._arrivals = arrivals
        self._calls = Account(MAX_CALLS)

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler of its call, to be added to a server."""
        methods = {"ServerReflectionInfo": handler(self._answer, self._arrivals)}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _answer(self, call: Call) -> None:
        if self._calls.lacking(call.caller, 1, "calls"):
            raise Overloaded("too many calls of reflection; ask again in a while", QUESTION_S)
        with self._calls.one(call.caller):
            try:
                async with asyncio.timeout(QUESTION_S):
                    async for answer in self._servicer.ServerReflectionInfo(_questions(call), None):
                        await call.write(answer.SerializeToString())
            except TimeoutError:
                raise DeadlineExceeded(
                    f"a call of reflection lasts at most {QUESTION_S:.0f} s; call again"
                ) from None


async def _questions(call: Call) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    kind = reflection_pb2.ServerReflectionRequest
    while (question := await call.read(kind, at_most(QUESTION_BYTES))) is not None:
        yield question
