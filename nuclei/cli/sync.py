"""`nuclei sync`: follow a registry beside a Triton that something else runs."""

from pathlib import Path
from typing import Annotated

import typer

from nuclei.registry import default_tracking_uri

EPILOG = """
**Examples**

nuclei sync --triton 127.0.0.1:8001 --state /var/lib/nuclei

NUCLEI_SYNC_WEBHOOK_SECRET=... nuclei sync --tracking-uri http://mlflow:5000
"""


def sync(
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow registry [MLFLOW_TRACKING_URI, or ~/.nuclei].", show_default=False
        ),
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(help="host:port of Triton's gRPC API [127.0.0.1:8001].", show_default=False),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what it downloads; Triton serves its folder `synced`, in the mode of "
            "explicit model control [.state].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Keep a Triton as the registry says: load, prove, switch and retire model versions.

    `nuclei serve --sync` runs this beside its own Triton. Every setting is also a variable.
    """
    from serving.logs import write_logs
    from serving.promotion.process import follow
    from serving.promotion.settings import SyncSettings
    from serving.settings import read_settings

    given = {"triton_address": triton, "state": state}
    update = {name: value for name, value in given.items() if value is not None}
    settings = read_settings(SyncSettings)
    uri = tracking_uri or settings.sync or default_tracking_uri()
    write_logs(settings)
    follow(settings.model_copy(update={**update, "sync": uri}))
