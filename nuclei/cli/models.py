"""`nuclei models`: registered, exported and served model versions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nuclei.cli.gateway import (
    Gateway,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TokenOption,
)
from nuclei.cli.registry import TrackingUriOption
from nuclei.cli.segmenter import DEFAULT_REPOSITORY
from nuclei.cli.versions import SEPARATOR, downloaded, find_version
from nuclei.console import messages, output, print_warning
from nuclei.quoting import printable, shortened, without_password
from nuclei.registry import DATA_TAG, REGISTERED_PREFIX, default_tracking_uri

if TYPE_CHECKING:
    from serving.promotion.state import ModelState, VersionState

EPILOG = """
**Examples**

nuclei models                                        (registry and model repository)

nuclei models --address localhost:50051              (also what a running gateway serves)

nuclei models --model unet --tracking-uri http://mlflow:5000

nuclei models --card unet                            (what it learned from, scores, licence)

nuclei models --card nuclei-unet:3                   (of a registered version)
"""
SHOWN_CHANGES = 10
# What has a column of its own, or is told by one.
NO_NOTES = ("adopted", DATA_TAG, "gate.", "rollout.", "sync.")
NOTE_CHARACTERS = 80
DIGEST_CHARACTERS = 12
# `nuclei diff` has those of each modality.
TOP_SCORES = ("dsb_score", "tta/dsb_score")


def models(
    model: Annotated[
        str | None,
        typer.Option(
            help=f"Registered model, or its family [all named {REGISTERED_PREFIX}...].",
            show_default=False,
        ),
    ] = None,
    card: Annotated[
        str,
        typer.Option(
            metavar="MODEL[:VERSION]",
            help="Print the card of a model of the repository, or of a registered version: what it "
            "learned from, how good it is and where not, licence. Markdown.",
            show_default=False,
        ),
    ] = "",
    tracking_uri: TrackingUriOption = None,
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
    """List the model versions that are registered, exported, and served.

    Of a registered version: its aliases, what the gates said, the processes that have it loaded and
    since when, and its part of the live traffic. Below, who changed what last.
    """
    console = output()
    uri = tracking_uri or default_tracking_uri()
    if card:
        console.print(_card(card, repository, uri), markup=False, soft_wrap=True, end="")
        return
    states = _states(model, uri)
    console.print(_registered(states, uri))
    if any(state.changes for state in states):
        console.print(_changes(states))
    for problem in (problem for state in states for problem in state.problems):
        print_warning(problem, messages())
    console.print(_exported(repository))
    if address is not None:
        console.print(_served(Gateway(address, token, tls_ca, tls_certificate, tls_key)))


def _card(text: str, repository: Path, tracking_uri: str) -> str:
    from nuclei.evaluation.card import card
    from nuclei.inference.contract import CONTRACT_FILE, Contract
    from serving.registry import Registry
    from serving.repository.listing import list_models

    for entry in list_models(repository):
        if text in (entry.name, f"{entry.name}{SEPARATOR}{entry.champion}"):
            return card(entry.name, str(entry.champion), entry.contract)
    registry = Registry(tracking_uri)
    version = find_version(registry, text).registered
    contract = Contract.read(downloaded(registry, version) / CONTRACT_FILE)
    return card(version.model, str(version.version), contract)


def _states(model: str | None, tracking_uri: str) -> "list[ModelState]":
    from serving.promotion.lock import is_lock
    from serving.promotion.state import read_state
    from serving.registry import Registry

    registry = Registry(tracking_uri)
    names = [model] if model is not None else registry.names(REGISTERED_PREFIX)
    return [read_state(registry, name) for name in sorted(names) if not is_lock(name)]


def _registered(states: "Sequence[ModelState]", tracking_uri: str) -> Table:
    columns = ("version", "aliases", "registered", "gates", "loaded", "live share", "notes")
    table = _table(f"registered in {without_password(tracking_uri)}", *columns)
    now = datetime.now(UTC)
    for state in states:
        for entry in state.versions:
            table.add_row(
                f"{state.name} {entry.version}",
                ", ".join(entry.registered.aliases),
                _local(entry.registered.created),
                _verdict(entry),
                _loaded(state, entry.version, now),
                _share(state, entry.version),
                _notes(entry.registered.tags),
            )
    return table


def _changes(states: "Sequence[ModelState]") -> Table:
    """Who changed what last, the newest first."""
    table = _table("changes", "when", "model", "change", "from", "to", "by", "why")
    changes = [(entry.at, state.name, entry.change) for state in states for entry in state.changes]
    changes.sort(key=lambda one: one[0], reverse=True)
    for at, name, change in changes[:SHOWN_CHANGES]:
        versions = (str(v or "none") for v in (change.from_version, change.to_version))
        table.add_row(_local(at), name, change.action, *versions, change.who, change.why)
    return table


def _verdict(entry: "VersionState") -> str:
    """What the gates and the processes said."""
    if entry.refused is not None:
        return f"could not be served: {entry.refused}"
    if entry.aborted is not None:
        return f"aborted: {entry.aborted}"
    if entry.gates is None:
        adopted = entry.adopted
        return f"adopted, {adopted[:DIGEST_CHARACTERS]}" if adopted else "not judged"
    refused = entry.gates.verdict == "refused"
    return f"refused: {entry.gates.reason}" if refused else entry.gates.outcome


def _loaded(state: "ModelState", version: int, now: datetime) -> str:
    """The live processes that have a version loaded, and since when."""
    return ", ".join(
        f"{instance} since {_local(status.loaded[version])}"
        for instance, status in sorted(state.live_syncs(now).items())
        if version in status.loaded
    )


def _share(state: "ModelState", version: int) -> str:
    """The part of the callers that a version answers, as the registry wants it."""
    phase = None if state.rollout is None else state.rollout.current
    canary = phase.fraction if phase is not None and phase.mode == "canary" else 0.0
    if version == state.champion:
        return f"{100 * (1 - canary):.3g} %"
    if state.rollout is None or phase is None or version != state.rollout.version:
        return ""
    step = f"phase {state.rollout.phase + 1} of {len(state.rollout.phases)}"
    return f"{phase.mode} {100 * phase.fraction:.3g} %, {step}"


def _notes(tags: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {printable(shortened(value, NOTE_CHARACTERS))}"
        for name, value in sorted(tags.items())
        if not name.startswith(NO_NOTES)
    )


def _local(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _exported(repository: Path) -> Table:
    from serving.repository.listing import list_models

    columns = ("model", "versions", "champion", "validation", "tuned to")
    table = _table(f"exported to {repository}", *columns)
    for entry in list_models(repository):
        versions = ", ".join(map(str, entry.versions))
        scores, contract = _scores(entry.contract.validation), entry.contract
        told = _tuned(contract.thresholds, contract.min_areas_px, contract.diameters_px)
        table.add_row(entry.name, versions, str(entry.champion), scores, told)
    return table


def _served(gateway: Gateway) -> Table:
    with gateway.client() as client:
        info = client.server_info()
    columns = ("model", "version", "tta", "precision", "validation", "tuned to")
    table = _table(f"served at {gateway.address}", *columns)
    for entry in info.models:
        tta, precision = "yes" if entry.tta else "no", entry.precision or "unknown"
        scores, tuned = _scores(entry.validation), entry.tuned
        told = _tuned(tuned.threshold, tuned.min_area_px, tuned.diameter_px)
        table.add_row(entry.name, entry.version, tta, precision, scores, told)
    return table


def _tuned(
    thresholds: Mapping[str, float],
    min_areas_px: Mapping[str, int],
    diameters_px: Mapping[str, float],
) -> str:
    """What `nuclei segment --threshold`, `--min-area` and `--diameter` change."""
    told = [
        _by_group("threshold {:g}", thresholds),
        _by_group("min area {} px", min_areas_px),
        _by_group("diameter {:.0f} px", diameters_px),
    ]
    return ", ".join(part for part in told if part)


def _by_group(what: str, values: Mapping[str, float]) -> str:
    """A value of all frames, or those of grey ones and of those in colour."""
    if len(values) > 1 and len(set(values.values())) == 1:
        return what.format(next(iter(values.values())))
    return ", ".join(f"{what.format(value)} ({group})" for group, value in sorted(values.items()))


def _scores(validation: Mapping[str, float]) -> str:
    """The DSB scores over all images, without and with test-time augmentation."""
    return ", ".join(f"{name} {validation[name]:.3f}" for name in TOP_SCORES if name in validation)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table
