"""Who may call the gateway: those who send the bearer token."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from nuclei.client.messages import ERROR_METADATA
from nuclei.errors import Unauthenticated
from serving.gateway import metrics
from serving.gateway.pages import is_page
from serving.gateway.problems import problem
from serving.gateway.settings import GatewaySettings

# Open to everybody: an orchestrator's probes carry no token.
OPEN_SERVICE = f"/{health.SERVICE_NAME}/"
OPEN_PATHS = ("/livez", "/readyz")

Continuation = Callable[
    [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
]


class Token:
    """The bearer token that callers must send."""

    def __init__(self, settings: GatewaySettings) -> None:
        token = settings.token
        self._expected = None if token is None else b"Bearer " + token.get_secret_value().encode()

    def check(self, authorization: str | bytes | None, protocol: str) -> None:
        """Check a header or metadata `authorization`, in constant time.

        Raises:
            Unauthenticated: it is not the token.
        """
        if self._expected is None:
            return
        given = authorization or b""
        given = given if isinstance(given, bytes) else given.encode(errors="replace")
        scheme, _, token = given.partition(b" ")
        if not hmac.compare_digest(b"%s %s" % (scheme.capitalize(), token), self._expected):
            metrics.REJECTED.labels(protocol, "unauthenticated").inc()
            raise Unauthenticated(
                "the token is missing or wrong; send 'authorization: Bearer TOKEN' with the token "
                "of this service"
            )


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses gRPC calls without the token before anything of them is received."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        if handler_call_details.method.startswith(OPEN_SERVICE):
            return await continuation(handler_call_details)
        metadata: Mapping[str, str | bytes] = dict(handler_call_details.invocation_metadata)
        try:
            self._token.check(metadata.get("authorization"), "grpc")
        except Unauthenticated as error:
            return _refusal(error)
        return await continuation(handler_call_details)


class TokenMiddleware:
    """Refuses HTTP requests without the token before their bodies are received."""

    def __init__(self, app: ASGIApp, token: Token) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            try:
                self._token.check(Headers(scope=scope).get("authorization"), "http")
            except Unauthenticated as error:
                return await problem(error)(scope, receive, send)
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or is_page(path)


def _refusal(error: Unauthenticated) -> "grpc.RpcMethodHandler[Any, Any]":
    async def refuse(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        metadata = ((ERROR_METADATA, type(error).__name__),)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error), metadata)

    # A handler of streams is called before the first message is read.
    return grpc.stream_stream_rpc_method_handler(refuse)
