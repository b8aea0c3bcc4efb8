"""The gRPC server of the gateway: the API, health and reflection."""

import asyncio
import logging

import grpc
from grpc_health.v1 import health

from nuclei.errors import MissingPrerequisite
from serving.engine import HTTP2_FRAME_BYTES
from serving.gateway.arrivals import Arrivals
from serving.gateway.certificates import server_credentials
from serving.gateway.data_plane import DataPlane
from serving.gateway.grpc_servicer import SERVICE, GrpcServicer
from serving.gateway.health import Health
from serving.gateway.http_server import HEADER_S
from serving.gateway.reflection import SERVICE as REFLECTION
from serving.gateway.reflection import Reflection
from serving.gateway.security import Token, TokenInterceptor
from serving.gateway.settings import GatewaySettings
from serving.logs import Event

logger = logging.getLogger(__name__)

HEALTH_INTERVAL_S = 1.0
# A peer that vanished is noticed within half a minute, and its work cancelled.
KEEPALIVE_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may ask as often.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
# What a connection may do before and between calls, and how many it may make at once.
CONNECTION_OPTIONS = (
    ("grpc.server_handshake_timeout_ms", HEADER_S * 1000),
    ("grpc.max_connection_idle_ms", 60_000),
    # A caller that connects anew finds the gateways that have come meanwhile, and leaves those that
    # drain. Calls and streams under way are finished on the connection that they have.
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.max_concurrent_streams", 128),
    # A short message that is a long one: its memory cannot be reserved before it is there.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)


class GrpcServer:
    """Serves nuclei.v1, grpc.health.v1 and reflection on one port."""

    def __init__(self, data_plane: DataPlane, settings: GatewaySettings, token: Token) -> None:
        self._data_plane = data_plane
        self._arrivals = Arrivals(settings.grpc_port)
        self._servicer = GrpcServicer(data_plane, settings, self._arrivals)
        self._address = f"{settings.host}:{settings.grpc_port}"
        self._drain_s = settings.drain_s
        self._health = Health()
        self._credentials = server_credentials(settings)
        self._server = grpc.aio.server(
            interceptors=[TokenInterceptor(token)],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Callers send an image in HTTP/2 frames of this size: fewer frames cost less.
                ("grpc.http2.max_frame_size", HTTP2_FRAME_BYTES),
                ("grpc.so_reuseport", 0),
                *KEEPALIVE_OPTIONS,
                *CONNECTION_OPTIONS,
                ("grpc.max_allowed_incoming_connections", settings.max_accepted_connections),
            ],
        )
        self._draining: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            MissingPrerequisite: the port is taken.
        """
        services = (SERVICE, health.SERVICE_NAME, REFLECTION)
        self._server.add_generic_rpc_handlers(
            (
                self._servicer.handler(),
                self._health.handler(),
                Reflection(services, self._arrivals).handler(),
            )
        )
        try:
            if self._credentials is None:
                self._server.add_insecure_port(self._address)
            else:
                self._server.add_secure_port(self._address, self._credentials)
        except RuntimeError as error:
            raise MissingPrerequisite(
                f"the gRPC address {self._address} cannot be used; is the port taken? "
                "Set NUCLEI_GRPC_PORT or NUCLEI_HOST"
            ) from error
        await self._server.start()
        self._watching = asyncio.create_task(self._arrivals.watch())
        self._reporting = asyncio.create_task(self._report_health())
        logger.info(Event("grpc listening", address=self._address))

    def begin_draining(self) -> None:
        """Accept no new calls; running ones have the drain time to finish."""
        if self._draining is None:
            self._servicer.begin_draining()
            self._draining = asyncio.create_task(self._drain())

    async def stop(self) -> None:
        """Drain and wait until it is done."""
        self.begin_draining()
        assert self._draining is not None
        await self._draining

    async def _drain(self) -> None:
        self._reporting.cancel()
        self._health.end()
        await self._server.stop(self._drain_s)
        self._watching.cancel()

    async def _report_health(self) -> None:
        """Keep the health status equal to the readiness of the models."""
        reported = None
        while True:
            ready = await self._data_plane.is_ready()
            if ready != reported:
                logger.info(Event("readiness", ready=ready))
                reported = ready
            self._health.set(ready)
            await asyncio.sleep(HEALTH_INTERVAL_S)
