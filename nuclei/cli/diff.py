"""`nuclei diff`: two versions of a registered model side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nuclei.cli.registry import TrackingUriOption
from nuclei.console import messages, output
from nuclei.errors import ModelNotFound
from nuclei.quoting import printable, quoted, shortened
from nuclei.registry import DEFAULT_MODEL, default_tracking_uri

if TYPE_CHECKING:
    from serving.promotion.state import ModelState, VersionState
    from serving.registry import Registry, Run

EPILOG = """
**Examples**

nuclei diff champion 5

nuclei diff 3 5 --model unet --tracking-uri http://mlflow:5000

nuclei diff 3 5 --all                 (also what is equal)
"""
ABSENT = "-"
CELL_CHARACTERS = 64
MAX_ROWS = 200
# Names of training/job.py.
FINAL = "final/"
FINGERPRINT = "data_fingerprint"


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Version, or alias such as champion.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Version, or alias such as challenger.")],
    model: Annotated[str, typer.Option(help="Registered model, or its family.")] = DEFAULT_MODEL,
    everything: Annotated[
        bool, typer.Option("--all", help="Also list the parameters and tags that are equal.")
    ] = False,
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Compare two versions of a model: scores, gates, parameters of their trainings, data.

    Scores of different data fingerprints are of different images; then only the gates' accuracy
    compares the two on the same ones.
    """
    from serving.promotion.state import read_state
    from serving.registry import Registry

    registry = Registry(tracking_uri or default_tracking_uri())
    state = read_state(registry, model)
    sides = (_find(state, a), _find(state, b))
    runs = [_run(registry, side) for side in sides]
    table = Table(title=f"{state.name} {_title(sides[0])} and {_title(sides[1])}")
    table.title_justify = "left"
    for column in ("", "", *map(_title, sides), "difference"):
        table.add_column(column)
    scores, data = [_scores(run) for run in runs], [_data(run) for run in runs]
    _add_rows(table, "score", scores, True)
    _add_rows(table, "gates", [_gates(side) for side in sides], True)
    _add_rows(table, "data", data, True)
    _add_rows(table, "parameter", [run.params for run in runs], everything)
    _add_rows(table, "tag", [_tags(side) for side in sides], everything)
    output().print(table)
    if data[0].get(FINGERPRINT) != data[1].get(FINGERPRINT):
        messages().print(
            "their scores are not of the same images: compare the gates, or run `nuclei compare`",
            soft_wrap=True,
        )


def _find(state: "ModelState", asked: str) -> "VersionState":
    """The version of this number or alias."""
    if asked.isascii() and asked.isdecimal():
        return state.find(int(asked[:12]))
    for entry in state.versions:
        if asked in entry.registered.aliases:
            return entry
    aliases = sorted(alias for entry in state.versions for alias in entry.registered.aliases)
    raise ModelNotFound(
        f"'{state.name}' has no alias {quoted(asked)}; expected a version or one of: "
        f"{', '.join(aliases) or 'none yet'}"
    )


def _title(entry: "VersionState") -> str:
    aliases = ", ".join(entry.registered.aliases)
    return f"{entry.version} ({aliases})" if aliases else str(entry.version)


def _run(registry: "Registry", entry: "VersionState") -> "Run":
    """The training of a version; an empty one when it is not known."""
    from serving.registry import Run

    run_id = entry.registered.run_id
    return registry.run(run_id) if run_id else Run({}, {}, {})


def _scores(run: "Run") -> dict[str, str]:
    """The scores on its validation images at the end of a training."""
    return {
        name.removeprefix(FINAL): f"{value:.4f}"
        for name, value in run.metrics.items()
        if name.startswith(FINAL)
    }


def _data(run: "Run") -> dict[str, str]:
    """What it was trained on, and by which code."""
    return {
        name: value
        for name, value in run.tags.items()
        if name.startswith("data_") or name == "git_commit"
    }


def _gates(entry: "VersionState") -> dict[str, str]:
    given = {
        "approval": entry.approval,
        "refused": entry.refused,
        "aborted": entry.aborted,
        **(entry.gates.model_dump() if entry.gates else {"verdict": "not judged"}),
    }
    return {name: value for name, value in given.items() if value}


def _tags(entry: "VersionState") -> dict[str, str]:
    """What else was noted about a version."""
    shown_above = ("gate.", "approval", "sync.", "rollout.")
    return {
        name: value
        for name, value in entry.registered.tags.items()
        if not name.startswith(shown_above)
    }


def _add_rows(table: Table, part: str, sides: Sequence[Mapping[str, str]], equal_too: bool) -> None:
    """The rows of one part, without those that are equal, unless they are wanted."""
    left, right = sides
    names = sorted(
        name for name in {*left, *right} if equal_too or left.get(name) != right.get(name)
    )
    for name in names[:MAX_ROWS]:
        values = [side.get(name, ABSENT) for side in sides]
        difference = _difference(*values)
        style = "bold" if difference else "dim"
        table.add_row(part, name, *(_cell(value) for value in values), difference, style=style)
    if len(names) > MAX_ROWS:
        table.add_row(part, f"and {len(names) - MAX_ROWS} more", "", "", "")


def _difference(left: str, right: str) -> str:
    """B - A of numbers; `differs` of texts, also where the table shows only parts of them."""
    if left == right:
        return ""
    try:
        return f"{float(right) - float(left):+.4g}"
    except ValueError:
        return "differs"


def _cell(value: str) -> str:
    return printable(shortened(value, CELL_CHARACTERS))
