"""`nuclei serve`: Triton and the gateway on this machine, until Ctrl-C."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from nuclei.cli.checkout import require_checkout

logger = logging.getLogger(__name__)

EPILOG = """
**Examples**

nuclei serve                                   (HTTP 3000, gRPC 50051, only for this machine)

NUCLEI_TOKEN=... nuclei serve --host 0.0.0.0   (for all machines that send the token)

nuclei serve --sync http://mlflow:5000         (the champions of a registry, followed)

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
        str | None,
        typer.Option(help="Address to listen on, HTTP and gRPC [127.0.0.1].", show_default=False),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Model repository; by default `model_repository` in the current folder, or beside "
            "the installed package. With a registry, only what is served until that is reached, "
            "and becomes the first champion where there is none.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder for logs and what the servers write; with a registry also for what was "
            "downloaded (`versions`) and the repository made of it (`synced`) [.state].",
            show_default=False,
        ),
    ] = None,
    sync: Annotated[
        str | None,
        typer.Option(
            help="MLflow registry whose champions are served, such as `http://mlflow:5000` or "
            "`sqlite:////data/mlflow.db`: the models are loaded from there, and followed as long "
            "as the service runs. Without it the repository is served as it is.",
            show_default=False,
        ),
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
        "sync": sync,
    }
    variables = {
        f"NUCLEI_{name.upper()}": str(value) for name, value in given.items() if value is not None
    }
    from serving.gateway.settings import GatewaySettings
    from serving.logs import write_logs
    from serving.promotion.settings import SyncSettings
    from serving.settings import ProbeSettings, ServeSettings, read_settings, unused_variables
    from serving.supervision.guard import guard_supervisor

    settings = read_settings(ServeSettings)
    require_checkout(settings.triton_environment, settings.check_frame)
    write_logs(settings)
    kinds = (ServeSettings, GatewaySettings, SyncSettings, ProbeSettings)
    for sentence in unused_variables(os.environ, kinds, ("triton_address",)):
        logger.warning(sentence)
    raise typer.Exit(guard_supervisor({**os.environ, **variables}, settings.stop_s))
