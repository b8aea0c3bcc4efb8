"""The gateway's process: the BentoML service's application over HTTP, and beside it gRPC.

`python -m serving.gateway` serves; with a descriptor, it forks those that do (`forks`).
"""

import asyncio
import gc
import signal
import sys
from types import FrameType

# Collections would traverse, again and again, what is imported: a fifth of the time of a start.
gc.disable()

import uvloop  # noqa: E402

from serving.gateway.exposure import check_exposure  # noqa: E402
from serving.gateway.forks import serve_in_forks  # noqa: E402
from serving.gateway.http_server import HttpServer  # noqa: E402
from serving.gateway.service import (  # noqa: E402
    NucleiGateway,
    ending_the_process,
    ending_the_service,
    settings,
)
from serving.logs import write_logs  # noqa: E402


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; what cannot run ends the process with a sentence."""
    write_logs(settings, sys.stdout)
    with ending_the_process():
        check_exposure(settings, {settings.host})
    if len(sys.argv) > 1:
        serve_in_forks(int(sys.argv[1]))
    uvloop.run(_serve())


async def _serve() -> None:
    stopping = _stop_signal()
    app = NucleiGateway.to_asgi(is_main=True)  # type: ignore[attr-defined]
    # BentoML's hooks open and close the gRPC port.
    async with app.router.lifespan_context(app):
        server = HttpServer(app, settings)
        with ending_the_service():
            await server.start()
        gc.enable()
        await stopping.wait()
        await server.stop()


def _stop_signal() -> asyncio.Event:
    """Set once this process gets SIGTERM or SIGINT."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping.set)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)
    return stopping


if __name__ == "__main__":
    main()
