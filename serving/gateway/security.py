"""Who may call the gateway: those who send the bearer token."""

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from nuclei.client.messages import ERROR_METADATA
from nuclei.errors import NotPermitted, Unauthenticated
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
    """The bearer token that callers must send, and the administrator's, which opens all."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._expected = _bearer(settings.token)
        self._administrators = _bearer(settings.administrator_token)

    @property
    def has_administrator(self) -> bool:
        """Whether anybody may change what is served."""
        return self._administrators is not None

    def check(self, authorization: str | bytes | None, protocol: str) -> None:
        """Check a header or metadata `authorization`, in constant time.

        Raises:
            Unauthenticated: it is not a token.
        """
        if self._expected is None:
            return
        if not _is(authorization, self._expected) and not _is(authorization, self._administrators):
            metrics.REJECTED.labels(protocol, "unauthenticated").inc()
            raise Unauthenticated(
                "the token is missing or wrong; send 'authorization: Bearer TOKEN' with the token "
                "of this service"
            )

    def check_administrator(self, authorization: str | None) -> None:
        """Check that a header `authorization` holds the administrator's token, in constant time.

        Raises:
            Unauthenticated: it holds no token of this service.
            NotPermitted: it holds the token for frames.
        """
        if _is(authorization, self._administrators):
            return
        metrics.REJECTED.labels("http", "unauthenticated").inc()
        if _is(authorization, self._expected):
            raise NotPermitted(
                "this token is for frames; to change what is served, send the administrator's "
                "(NUCLEI_ADMINISTRATOR_TOKEN)"
            )
        raise Unauthenticated(
            "the token is missing or wrong; send 'authorization: Bearer TOKEN' with the "
            "administrator's token (NUCLEI_ADMINISTRATOR_TOKEN)"
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


def _bearer(token: SecretStr | None) -> bytes | None:
    return None if token is None else b"Bearer " + token.get_secret_value().encode()


def _is(authorization: str | bytes | None, expected: bytes | None) -> bool:
    if expected is None:
        return False
    given = authorization or b""
    given = given if isinstance(given, bytes) else given.encode(errors="replace")
    scheme, _, token = given.partition(b" ")
    return hmac.compare_digest(b"%s %s" % (scheme.capitalize(), token), expected)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or is_page(path)


def _refusal(error: Unauthenticated) -> "grpc.RpcMethodHandler[Any, Any]":
    async def refuse(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        metadata = ((ERROR_METADATA, type(error).__name__),)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error), metadata)

    # A handler of streams is called before the first message is read.
    return grpc.stream_stream_rpc_method_handler(refuse)
