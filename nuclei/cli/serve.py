"""`nuclei serve`: Triton and the gateway on this machine, until Ctrl-C."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from nuclei.cli.checkout import require_checkout

# Time the supervisor needs to stop, besides what it gives the gateway.
_STOP_S = 30.0

EPILOG = """
**Examples**

nuclei serve                                   (HTTP 3000, gRPC 50051, only for this machine)

NUCLEI_TOKEN=... nuclei serve --host 0.0.0.0   (for all machines that send the token)

NUCLEI_THREADS=4 nuclei serve                  (every setting is also a variable)
"""


def serve(
    http_port: Annotated[
        int | None, typer.Option(help="Port of the HTTP API [3000].", show_default=False)
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of the gRPC API [50051].", show_default=False)
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on [127.0.0.1].", show_default=False)
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository [model_repository].", show_default=False),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for logs [.state].", show_default=False)
    ] = None,
) -> None:
    """Serve the models of a repository with Triton, behind the gateway that callers use.

    Before it reports that it is ready, it segments a bundled frame with every model as a check. A
    process that ends or hangs later is restarted, and a line says so.
    """
    given = {
        "http_port": http_port,
        "grpc_port": grpc_port,
        "host": host,
        "repository": repository,
        "state": state,
    }
    variables = {
        f"NUCLEI_{name.upper()}": str(value) for name, value in given.items() if value is not None
    }
    raise typer.Exit(_guard({**os.environ, **variables}))


def _guard(environment: dict[str, str]) -> int:
    """Run the supervisor, which reads its settings from this environment; returns its exit code."""
    from serving.process.child import Child
    from serving.settings import ServeSettings, read_settings
    from serving.supervision.events import show_events
    from serving.supervision.guard import Guard

    settings = read_settings(ServeSettings)
    require_checkout(settings.triton_environment, settings.check_frame)
    show_events()
    supervisor = Child(
        "the supervisor", [sys.executable, "-m", "serving.supervision"], environment, log=None
    )
    return Guard(supervisor, settings.stop_s + _STOP_S).run()
