"""`nuclei gate`: whether a registered model version may serve, and why not."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from nuclei.cli.dataset import CategoryOption, DataOption
from nuclei.cli.versions import SEPARATOR, find_version, number_of
from nuclei.console import messages, output, print_warning
from nuclei.errors import InvalidOption, VersionRefused
from nuclei.registry import CHAMPION, DEFAULT_MODEL, PARENT_TAG, default_tracking_uri

if TYPE_CHECKING:
    from serving.promotion.accuracy import Bounds
    from serving.promotion.gates import Judgement
    from serving.promotion.state import ModelState, VersionState
    from serving.registry import Registry

EPILOG = """
**Examples**

nuclei gate 5 --data evaluation/                     (against the champion)

nuclei gate 5 --data evaluation/ --floor 0.6 --floor histology=0.4

nuclei gate 5 --data evaluation/ --against 3         (against version 3)

nuclei gate 1 --model mylab --data evaluation/       (against the model that it was trained from)

nuclei gate 2 --model nuclei-yolov8 --data evaluation/ --accept-licence AGPL-3.0

Then: nuclei promote nuclei-unet 5
"""


def gate(
    version: Annotated[int, typer.Argument(min=1, help="Version of the model.")],
    data: DataOption,
    model: Annotated[str, typer.Option(help="Registered model, or its family.")] = DEFAULT_MODEL,
    against: Annotated[
        str,
        typer.Option(
            help="Alias or version to compare with, of another model as MODEL:VERSION or "
            "MODEL:ALIAS. The first version is compared with the one that it was trained from, if "
            "there is one. `none` leaves the floors only."
        ),
    ] = CHAMPION,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the evaluation set [that of the folder].", show_default=False),
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="Least mean DSB score of every modality [0.05], or of one as MODALITY=SCORE; "
            "repeat for several.",
            show_default=False,
        ),
    ] = None,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option(help="One more licence that is accepted, SPDX.", show_default=False),
    ] = None,
    category: CategoryOption = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow registry [MLFLOW_TRACKING_URI, or ~/.nuclei].", show_default=False
        ),
    ] = None,
) -> None:
    """Judge a registered model version: whether it may serve, and why not.

    Contract, ONNX files, parity with torch, accuracy on images that no model was trained on, time
    and memory in Triton, licence, approval. The verdict is kept as tags of the version, the figures
    and a page (gates.html) in an MLflow run. Exit code 11 when it is refused.
    """
    from serving.promotion.accuracy import EvaluationSet
    from serving.promotion.gates import LICENCES, Judge, Policy, record
    from serving.promotion.report import page
    from serving.promotion.state import NO_VERSION, read_state
    from serving.registry import Registry
    from training.data.dataset import fingerprint, read_datasets, source_of

    policy = Policy(_bounds(floor or ()), LICENCES | set(accept_licence or ()))
    registry = Registry(tracking_uri or default_tracking_uri())
    state = read_state(registry, model)
    judged = state.find(version)
    other = _other(registry, state, judged, against)
    samples = read_datasets(data, category or ())
    evaluation_set = EvaluationSet(
        name or "+".join(map(source_of, data)), fingerprint(samples), samples
    )
    with TemporaryDirectory() as scratch:
        judge = Judge(registry, state, evaluation_set, policy, Path(scratch))
        judgement = judge.judge(version, other)
    title = judged.title
    gates = record(registry, judged, judgement, page(title, judgement))
    output().print(_table(title, judgement))
    if judgement.passed and judgement.against == NO_VERSION:
        print_warning("it was compared with no version: whether it is better is not known")
    messages().print(f"the report is gates.html of MLflow run {gates.run_id}", soft_wrap=True)
    if not judgement.passed:
        raise VersionRefused(f"{title} is refused: {judgement.reason}")


def _other(
    registry: "Registry", state: "ModelState", judged: "VersionState", against: str
) -> "VersionState | None":
    """The version to compare with."""
    from serving.promotion.state import NO_VERSION

    if against == NO_VERSION:
        return None
    if SEPARATOR in against:
        return find_version(registry, against)
    if against != CHAMPION or state.champion is not None:
        return state.find(number_of(state, against))
    parent = judged.registered.tags.get(PARENT_TAG, "")
    if SEPARATOR in parent:
        messages().print(
            f"{state.name} has no champion yet: the version is compared with {parent}, from which "
            "its training started",
            soft_wrap=True,
        )
        return find_version(registry, parent)
    messages().print(
        f"{state.name} has no champion yet: the version is compared with floors only",
        soft_wrap=True,
    )
    return None


def _bounds(floors: Sequence[str]) -> "Bounds":
    from serving.promotion.accuracy import Bounds

    of_all, of_modalities = Bounds.floor, {}
    for text in floors:
        modality, _, score = text.rpartition("=")
        try:
            value = float(score)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 1:
            raise InvalidOption(
                f"--floor {text} is no score; expected 0 to 1, or MODALITY=SCORE such as "
                "histology=0.4"
            )
        if modality:
            of_modalities[modality] = value
        else:
            of_all = value
    return Bounds(floor=of_all, floors=of_modalities)


def _table(title: str, judgement: "Judgement") -> Table:
    table = Table(title=f"gates of {title}", title_justify="left")
    for column in ("gate", "", "figure", "bound", ""):
        table.add_column(column)
    for one in judgement.gates:
        verdict = Text("passed", "green") if one.passed else Text("refused", "bold red")
        table.add_row(one.name, verdict, *map(Text, (one.shown, one.bound, one.sentence)))
    return table
