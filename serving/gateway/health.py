"""grpc.health.v1, open to everybody, which is why nothing of a request is ever read.

gRPC would keep a message of any length that the server allows for frames. So the answer is about
the whole server, whatever service is asked for.
"""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from serving.gateway.admission import Account
from serving.gateway.peers import name_in_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Status = health_pb2.HealthCheckResponse

MAX_WATCHES = 64
# Whoever still wants to know asks again.
WATCH_S = 600.0


class Health:
    """What callers learn about the server; first that it is not serving."""

    def __init__(self) -> None:
        self._status: int = Status.NOT_SERVING
        self._changed = asyncio.Event()
        self._watches = Account(MAX_WATCHES)
        self._ending = False

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler of both calls, to be added to a server."""
        methods = {"Check": self._check, "Watch": self._watch}
        # A handler of streams is called before the first message is read.
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.stream_stream_rpc_method_handler(method) for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler(health.SERVICE_NAME, handlers)

    def set(self, serving: bool) -> None:
        """Tell everybody whether the server works."""
        self._status = Status.SERVING if serving else Status.NOT_SERVING
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """The server stops: watches end."""
        self._ending = True
        self.set(False)

    async def _check(self, requests: object, context: Context) -> None:
        await context.write(self._answer())

    async def _watch(self, requests: object, context: Context) -> None:
        caller = name_in_grpc(context.peer())
        if self._watches.lacking(caller, 1, "watches"):
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches; ask with Check"
            )
        with self._watches.one(caller), suppress(TimeoutError):
            async with asyncio.timeout(WATCH_S):
                await self._report(context)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the watch has ended; watch again")

    async def _report(self, context: Context) -> None:
        reported = None
        while True:
            changed, status = self._changed, self._status
            if status != reported:
                await context.write(self._answer())
                reported = status
            if self._ending:
                return
            await changed.wait()

    def _answer(self) -> bytes:
        return Status(status=self._status).SerializeToString()
