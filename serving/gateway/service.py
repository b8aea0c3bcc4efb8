"""The BentoML service. `python -m serving.gateway` runs it in one process, as `nuclei serve` does.

`bentoml serve serving.gateway.service:NucleiGateway` runs it too, in BentoML's worker process.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

# This module is the program of BentoML's worker, which wants values in files, added up over
# workers. There is one, and a full disk would make their memory maps a SIGBUS. prometheus_client
# looks at the variable when it is imported.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml
import click
from starlette.types import ASGIApp, Receive, Scope, Send

from nuclei.errors import InvalidOption, MissingPrerequisite
from nuclei.version import installed_version
from serving.decoding.decoders import Decoders
from serving.engine import TritonEngine
from serving.gateway import metrics
from serving.gateway.certificates import bentoml_tls, not_after
from serving.gateway.connections import ConnectionLimit, provide_descriptors
from serving.gateway.data_plane import DataPlane
from serving.gateway.exposure import check_exposure, listening_addresses
from serving.gateway.grpc_server import GrpcServer
from serving.gateway.http_routes import http_app
from serving.gateway.memory import release_memory
from serving.gateway.registry import RegistryProcess
from serving.gateway.security import Token
from serving.gateway.settings import GatewaySettings
from serving.logs import Event, write_logs
from serving.settings import read_settings
from serving.tracing import start_tracing

logger = logging.getLogger(__name__)

# BentoML's own timer starts with the upload and knows nothing of the data plane's deadlines, so it
# must never fire: no request takes a day.
NEVER_S = 86_400.0


def _settings() -> GatewaySettings:
    """The settings; ends the process with a sentence when one is impossible."""
    with ending_the_process():
        return read_settings(GatewaySettings)


@contextmanager
def ending_the_process() -> Iterator[None]:
    """End this process with a sentence when it cannot run with its settings."""
    try:
        yield
    except InvalidOption as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


settings = _settings()
token = Token(settings)
app = http_app(settings, token)


class OnlyOurRoutes:
    """Answers every request itself: the pages and documents that BentoML adds stay hidden."""

    def __init__(self, bentoml_app: ASGIApp) -> None:
        self._bentoml_app = bentoml_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._bentoml_app if scope["type"] == "lifespan" else app)(scope, receive, send)


@bentoml.service(
    name="NucleiGateway",
    http={"host": settings.host, "port": settings.http_port},
    ssl=bentoml_tls(settings),
    traffic={"timeout": NEVER_S},
    # The data plane logs, measures and traces every frame, in more detail and with bounded names.
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"excluded_urls": ".*"},
)
class NucleiGateway:
    """The one worker of the gateway: HTTP by BentoML, and beside it the gRPC server."""

    def __init__(self) -> None:
        write_logs(settings, sys.stdout)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Check the settings in the process that starts the worker, before any port is open."""
        write_logs(settings, sys.stdout)
        command = click.get_current_context(silent=True)
        # `bentoml serve --host` overrides the setting.
        host = command.params.get("host") if command is not None else None
        with ending_the_process():
            check_exposure(settings, {settings.host, host or settings.host})

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Open the gRPC port."""
        logger.info(Event("gateway starting", server_version=installed_version()))
        self._traces = None
        if settings.traces:
            self._traces = start_tracing(settings.traces, installed_version())
        self._executor = ThreadPoolExecutor(settings.threads, thread_name_prefix="frame")
        self._engine = TritonEngine(
            settings.triton_addresses,
            settings.triton_pixels,
            settings.max_message_bytes,
        )
        # One for each frame in work, and one that is there while another is replaced.
        self._decoders = Decoders(settings.max_frames_in_work + 1, self._executor)
        self._decoders.start()
        self._data_plane = DataPlane(self._engine, self._decoders, self._executor, settings)
        app.state.data_plane = self._data_plane
        app.state.registry = self._registry = RegistryProcess(settings.registry)
        self._grpc = GrpcServer(self._data_plane, settings, token)
        with ending_the_service():
            provide_descriptors(settings)
            if (end := not_after(settings)) is not None:
                metrics.note_certificate(end)
            await self._grpc.start()
            check_exposure(settings, listening_addresses())
        self._upkeep = [
            asyncio.create_task(ConnectionLimit(settings, self._data_plane.admission).run()),
            asyncio.create_task(release_memory(self._data_plane.admission)),
            asyncio.create_task(self._data_plane.watch_progress()),
            asyncio.create_task(self._data_plane.resolver.watch()),
            asyncio.create_task(self._data_plane.router.watch()),
        ]
        _on_stop_signals(self._begin_draining)
        # What exists by now stays: collections need not traverse it every few frames.
        gc.freeze()

    def _begin_draining(self) -> None:
        self._grpc.begin_draining()
        self._data_plane.live.close()
        asyncio.get_running_loop().call_later(settings.drain_s, app.state.drained.set)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Wait for the running requests, then close everything."""
        await self._grpc.stop()
        for each in self._upkeep:
            each.cancel()
        self._data_plane.shadows.close()
        await self._registry.close()
        await self._engine.close()
        await self._decoders.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._traces is not None:
            await asyncio.to_thread(self._traces.shutdown)


NucleiGateway.add_asgi_middleware(OnlyOurRoutes)  # type: ignore[attr-defined]


@contextmanager
def ending_the_service() -> Iterator[None]:
    """End after a failure that starting again cannot cure; BentoML's own process too, if any."""
    try:
        yield
    except (InvalidOption, MissingPrerequisite) as error:
        logger.critical("%s", error)
        command = click.get_current_context(silent=True)
        if command is not None and command.params.get("worker_id") is not None:
            os.kill(os.getppid(), signal.SIGTERM)
        os._exit(error.exit_code)


def _on_stop_signals(begin: Callable[[], None]) -> None:
    """At SIGTERM or SIGINT, call `begin` in the running loop, then the handler of before."""
    loop = asyncio.get_running_loop()
    handled = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, stack: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)
        before = handled[signal.Signals(number)]
        if callable(before):
            before(number, stack)

    for each in handled:
        signal.signal(each, handle)
