"""The HTTP server of the gateway: uvicorn, with a deadline for every phase of a connection."""

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from nuclei.errors import MissingPrerequisite
from serving.gateway.certificates import http_tls
from serving.gateway.settings import GatewaySettings
from serving.logs import Event

logger = logging.getLogger(__name__)

# Longest time for a TLS handshake, and for the headers of a request.
HEADER_S = 10
# Between an answer and the next request of a connection.
KEEP_ALIVE_S = 5
# For the rest of a body that was answered before it had arrived: a caller that closes at once
# would lose the answer.
REST_S = 10
# To write the answers of frames that are given up when the time for draining is over.
LAST_ANSWERS_S = 2

_BACKLOG = 2048


class HttpServer:
    """Serves an ASGI application on the HTTP port of the settings."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        """Describe the server; `start` starts it.

        Raises:
            InvalidOption: the certificate or its key cannot be used.
        """
        self._address = (settings.host, settings.http_port)
        self._config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # A caller must not choose the address that it is known by.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(settings.drain_s) + LAST_ANSWERS_S,
        )
        self._tls = http_tls(settings)
        self._settings = settings
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            MissingPrerequisite: the port is taken, or the address is not this machine's.
        """
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server(self._address, family=family, backlog=_BACKLOG)
        except OSError as error:
            raise MissingPrerequisite(
                f"the HTTP address {host}:{port} cannot be used; is the port taken? Set "
                "NUCLEI_HTTP_PORT or NUCLEI_HOST"
            ) from error
        self._server = _Server(self._config, listener, self._tls, self._settings)
        self._serving = asyncio.create_task(self._server.serve())
        logger.info(Event("http listening", address=f"{host}:{port}"))

    def begin_draining(self) -> None:
        """Accept no new requests; running ones have the drain time to finish."""
        self._server.should_exit = True

    async def stop(self) -> None:
        """Drain and wait until it is done."""
        assert self._serving is not None
        self.begin_draining()
        await self._serving


class _Server(uvicorn.Server):
    """uvicorn's server on a socket that is open, with our connections; signals are not its own."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        settings: GatewaySettings,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._tls = tls
        self._settings = settings

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = None if self._tls is None else HEADER_S
        server = await loop.create_server(
            lambda: _Connection(self.config, self.server_state, self._settings),
            sock=self._listener,
            backlog=_BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=timeout_s,
            ssl_shutdown_timeout=timeout_s,
        )
        self.servers = [server]
        self.started = True


class _Connection(H11Protocol):
    """One connection: it is ended when its caller lets a phase of it take too long.

    The body of a request is read by the application, whose deadline for it can be answered.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: uvicorn.server.ServerState,
        settings: GatewaySettings,
    ) -> None:
        super().__init__(config, state, {})
        self._reader_timeout_s = settings.reader_timeout_s
        self._max_connections = settings.max_accepted_connections
        self._phase_s: float | None = None
        self._phase: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            transport.abort()
        self._enter_phase()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._enter_phase()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._enter_phase()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._reader_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._phase)
        _cancel(self._unread)
        super().connection_lost(exc)

    def _enter_phase(self) -> None:
        """Set the deadline of the phase that the connection is in, unless it was in it before."""
        phase_s = self._longest_s()
        if phase_s == self._phase_s:
            return
        _cancel(self._phase)
        self._phase_s = phase_s
        if phase_s is not None:
            self._phase = self.loop.call_later(phase_s, self.transport.abort)

    def _longest_s(self) -> float | None:
        """The longest time for the phase; None while we work, or uvicorn's own timer runs."""
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            return HEADER_S
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state in (
            h11.DONE,
            h11.MUST_CLOSE,
        ):
            return REST_S
        return None


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
