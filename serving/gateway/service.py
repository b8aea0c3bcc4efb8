"""The BentoML service: `bentoml serve serving.gateway.service:NucleiGateway`."""

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import bentoml

from serving.engine import TritonEngine
from serving.gateway.data_plane import DataPlane
from serving.gateway.grpc_server import GrpcServer
from serving.gateway.http_routes import http_app
from serving.gateway.settings import GatewaySettings

# BentoML's own timer would answer before ours; it also runs while a body is uploaded.
UPLOAD_S = 300

settings = GatewaySettings()
app = http_app(settings.max_request_bytes)


@bentoml.service(
    name="NucleiGateway",
    http={"host": settings.host, "port": settings.http_port},
    traffic={"timeout": settings.default_timeout_s + UPLOAD_S},
    # The data plane logs every frame, with more to tell.
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(app, path="/")
class NucleiGateway:
    """One worker of the gateway: HTTP by BentoML, and beside it the gRPC server."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Open the gRPC port."""
        # BentoML's root logger drops what is not a warning.
        logging.getLogger("serving").setLevel(logging.INFO)
        self._executor = ThreadPoolExecutor(settings.threads, thread_name_prefix="frame")
        self._engine = TritonEngine(
            settings.triton_address, settings.triton_concurrency, settings.max_message_bytes
        )
        self._data_plane = DataPlane(self._engine, self._executor, settings)
        app.state.data_plane = self._data_plane
        self._grpc = GrpcServer(self._data_plane, settings)
        await self._grpc.start()
        _on_sigterm(self._grpc.begin_draining)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Wait for the running requests, then close everything."""
        await self._grpc.stop()
        await self._engine.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def __is_ready__(self) -> bool:
        return await self._data_plane.is_ready()


def _on_sigterm(begin: Callable[[], None]) -> None:
    """Call `begin` in the running loop at SIGTERM, before whatever handled it until now."""
    loop = asyncio.get_running_loop()
    handled = signal.getsignal(signal.SIGTERM)

    def handle(number: int, stack: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)
        if callable(handled):
            handled(number, stack)

    signal.signal(signal.SIGTERM, handle)
