"""Who may call the gateway: the addresses it may listen on, and the bearer token."""

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from nuclei.client.messages import ERROR_METADATA
from nuclei.errors import InvalidOption, Unauthenticated
from serving.gateway import metrics
from serving.gateway.certificates import check_certificates
from serving.gateway.problems import problem
from serving.gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)

MIN_TOKEN_LENGTH = 16
# Open to everybody: an orchestrator's probes carry no token.
OPEN_SERVICE = f"/{health.SERVICE_NAME}/"
OPEN_PATHS = ("/livez", "/readyz")

Continuation = Callable[
    [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
]


def check(settings: GatewaySettings, addresses: Iterable[str]) -> None:
    """Check that the gateway may listen on these addresses with these settings.

    Args:
        settings: of the gateway.
        addresses: IP addresses or host names, HTTP and gRPC.

    Raises:
        InvalidOption: a certificate, key or token cannot be used, or the service would be open to
            everybody who reaches it.
    """
    check_certificates(settings)
    _check_token(settings)
    public = sorted({address for address in addresses if not _is_loopback(address)})
    if not public or settings.insecure:
        return
    if settings.token is None and settings.tls_client_ca is None:
        raise InvalidOption(
            f"listening on {', '.join(public)} would let everybody in: set NUCLEI_TOKEN (callers "
            "send it) or NUCLEI_TLS_CLIENT_CA (callers show a certificate), keep NUCLEI_HOST on "
            "127.0.0.1, or set NUCLEI_INSECURE=true if something in front checks the callers"
        )
    if settings.tls_certificate is None:
        logger.warning(
            "the token and the frames can be read on their way to %s: set NUCLEI_TLS_CERTIFICATE "
            "and NUCLEI_TLS_KEY unless TLS ends in front of this process",
            ", ".join(public),
        )


def listening_addresses() -> set[str]:
    """IP addresses on which this process listens, TCP."""
    return {
        connection.laddr.ip
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


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
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                self._token.check(Headers(scope=scope).get("authorization"), "http")
            except Unauthenticated as error:
                return await problem(error)(scope, receive, send)
        await self._app(scope, receive, send)


def _refusal(error: Unauthenticated) -> "grpc.RpcMethodHandler[Any, Any]":
    async def refuse(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        metadata = ((ERROR_METADATA, type(error).__name__),)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error), metadata)

    # A handler of streams is called before the first message is read.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _check_token(settings: GatewaySettings) -> None:
    if settings.token is None:
        return
    token = settings.token.get_secret_value()
    if len(token) < MIN_TOKEN_LENGTH or not all("!" <= character <= "~" for character in token):
        raise InvalidOption(
            f"NUCLEI_TOKEN has {len(token)} characters; expected at least {MIN_TOKEN_LENGTH}, "
            "printable ASCII without spaces: take `openssl rand -hex 32`"
        )


def _is_loopback(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
