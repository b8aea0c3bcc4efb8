"""`nuclei serve`: Triton and the gateway on this machine, until Ctrl-C."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nuclei.errors import InvalidOption

if TYPE_CHECKING:
    from serving.launcher import SelfCheck, ServeSettings, Service

EPILOG = """
**Examples**

nuclei serve                                   (HTTP on 3000, gRPC on 50051, this machine only)

nuclei serve --host 0.0.0.0 --http-port 8080   (for other machines too)

NUCLEI_THREADS=4 nuclei serve                  (every setting is a variable as well)
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
    """Serve the models of a repository: Triton, and the gateway that callers talk to.

    A bundled frame is segmented as a check of the whole way before it says that it is ready.
    """
    from serving.launcher import Service, stop_on_signals

    console = Console()
    service = Service(
        _settings(
            http_port=http_port, grpc_port=grpc_port, host=host, repository=repository, state=state
        )
    )
    started = time.monotonic()
    stop_on_signals()
    try:
        with console.status("Starting Triton and the gateway"):
            service.start()
            check = service.self_check()
        _report(console, service, check, time.monotonic() - started)
        service.wait()
    except KeyboardInterrupt:
        console.print("Stopping")
    finally:
        service.stop()


def _settings(**given: Any) -> "ServeSettings":
    """Settings from the environment, and from the options that were given."""
    from pydantic import ValidationError

    from serving.gateway.settings import GatewaySettings
    from serving.launcher import ServeSettings

    try:
        GatewaySettings()
        return ServeSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise InvalidOption(
            f"setting {name} (NUCLEI_{name.upper()}) is {first['input']!r}: {first['msg']}"
        ) from None


def _report(console: Console, service: "Service", check: "SelfCheck", seconds: float) -> None:
    found = check.segmentation
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("self-check", f"{len(found.nuclei.label)} nuclei in {check.frame.name}")
    table.add_row("latency", f"{check.latency_ms:.0f} ms")
    table.add_row("model", f"{found.model} version {found.version}")
    table.add_row("HTTP", service.http_url)
    table.add_row("gRPC", service.grpc_address)
    table.add_row("logs", str(service.settings.state))
    console.print(f"[green]Ready[/green] in {seconds:.1f} s; Ctrl-C stops it")
    console.print(table)
