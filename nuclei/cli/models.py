"""`nuclei models`: registered, exported and served model versions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nuclei.cli.gateway import (
    Gateway,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TokenOption,
)
from nuclei.cli.segmenter import DEFAULT_REPOSITORY
from nuclei.console import output
from nuclei.registry import DEFAULT_MODEL, default_tracking_uri

EPILOG = """
**Examples**

nuclei models                                        (registry and model repository)

nuclei models --address localhost:50051              (also what a running gateway serves)

nuclei models --tracking-uri http://mlflow:5000
"""


def models(
    model: Annotated[str, typer.Option(help="Registered model.")] = DEFAULT_MODEL,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow registry [MLFLOW_TRACKING_URI, or ~/.nuclei].", show_default=False
        ),
    ] = None,
    repository: Annotated[Path, typer.Option(help="Model repository.")] = DEFAULT_REPOSITORY,
    address: Annotated[
        str | None,
        typer.Option(
            help="host:port of a running gateway's gRPC server.",
            show_default=False,
            rich_help_panel="Gateway",
        ),
    ] = None,
    token: TokenOption = "",
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
) -> None:
    """List the model versions that are registered, exported, and served by a gateway."""
    console = output()
    console.print(_registered(model, tracking_uri or default_tracking_uri()))
    console.print(_exported(repository))
    if address is not None:
        console.print(_served(Gateway(address, token, tls_ca, tls_certificate, tls_key)))


def _registered(model: str, tracking_uri: str) -> Table:
    from serving.registry import Registry

    table = _table(f"registered in {tracking_uri}", "version", "aliases", "registered", "notes")
    for entry in Registry(tracking_uri).versions(model):
        notes = ", ".join(f"{name} {value}" for name, value in sorted(entry.tags.items()))
        created = entry.created.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(f"{model} {entry.version}", ", ".join(entry.aliases), created, notes)
    return table


def _exported(repository: Path) -> Table:
    from serving.repository.listing import list_models

    table = _table(f"exported to {repository}", "model", "versions", "champion", "validation")
    for entry in list_models(repository):
        versions = ", ".join(map(str, entry.versions))
        scores = _scores(entry.contract.validation)
        table.add_row(entry.name, versions, str(entry.champion), scores)
    return table


def _served(gateway: Gateway) -> Table:
    with gateway.client() as client:
        info = client.server_info()
    table = _table(
        f"served at {gateway.address}", "model", "version", "tta", "precision", "validation"
    )
    for entry in info.models:
        tta, precision = "yes" if entry.tta else "no", entry.precision or "unknown"
        table.add_row(entry.name, entry.version, tta, precision, _scores(entry.validation))
    return table


def _scores(validation: Mapping[str, float]) -> str:
    """The DSB scores, overall and by modality."""
    scores = {name: value for name, value in validation.items() if "dsb_score" in name}
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(scores.items()))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table
