"""`nuclei export`: write a registered model version into the repository that Triton serves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from nuclei.cli.checkout import require_checkout
from nuclei.cli.segmenter import DEFAULT_REPOSITORY
from nuclei.console import output
from nuclei.errors import InvalidOption
from nuclei.registry import DEFAULT_MODEL, default_tracking_uri

if TYPE_CHECKING:
    from serving.parity import Parity
    from serving.repository.export import Exported

EPILOG = """
**Examples**

nuclei export                          (the newest version, into model_repository/)

nuclei export --alias champion --tracking-uri http://mlflow:5000

nuclei export --from-folder artifacts/ --version 3
"""


def export(
    model: Annotated[str, typer.Option(help="Registered model.")] = DEFAULT_MODEL,
    version: Annotated[
        int | None, typer.Option(min=1, help="Version of the model [newest].", show_default=False)
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="Take the version with this alias.", show_default=False)
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow registry [MLFLOW_TRACKING_URI, or ~/.nuclei].", show_default=False
        ),
    ] = None,
    from_folder: Annotated[
        Path | None,
        typer.Option(
            help="Take contract.json and the ONNX files of this folder, as --version N.",
            show_default=False,
        ),
    ] = None,
    repository: Annotated[
        Path, typer.Option(help="Model repository, made when missing.")
    ] = DEFAULT_REPOSITORY,
    cpu: Annotated[
        str | None,
        typer.Option(
            help="Runtime of the network on a CPU: openvino (bf16 where that is faster, "
            "else fp32), openvino-bf16, openvino-fp32, onnxruntime.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Compare Triton's answers with those of this process.")
    ] = True,
) -> None:
    """Add a model version to a Triton repository, and let the model's plain name mean it.

    A version is never overwritten. A running Triton keeps serving the old version until it is
    asked to load the new one, or is restarted.
    """
    from nuclei.inference.contract import CONTRACT_FILE, Contract
    from nuclei.inference.routing import Routing
    from serving.repository.checks import check_repository
    from serving.repository.configuration import DEFAULT_CPU_ACCELERATOR, CpuAccelerator
    from serving.repository.export import export_version, set_routing
    from serving.settings import FRAME_OF_EACH_KIND

    if version is not None and alias is not None:
        raise InvalidOption("--version and --alias both choose a version; give one of them")
    try:
        accelerator = CpuAccelerator(cpu) if cpu else DEFAULT_CPU_ACCELERATOR
    except ValueError:
        raise InvalidOption(
            f"--cpu {cpu} is not known; expected one of {', '.join(CpuAccelerator)}"
        ) from None
    if check:
        require_checkout(*FRAME_OF_EACH_KIND)
    console = output()
    uri = tracking_uri or default_tracking_uri()
    with _artifacts(model, version, alias, uri, from_folder) as (folder, number):
        exported = export_version(
            folder, repository, number, registered_model=model, accelerator=accelerator
        )
        name = Contract.read(folder / CONTRACT_FILE).family
    set_routing(repository, name, Routing(number))
    check_repository(repository)
    console.print(_exported_table(exported, repository))
    if check:
        _print_parity(console, repository, name)


@contextmanager
def _artifacts(
    model: str, version: int | None, alias: str | None, tracking_uri: str, folder: Path | None
) -> Iterator[tuple[Path, int]]:
    """The folder with the files of a model version, and its number."""
    if folder is not None:
        if version is None:
            raise InvalidOption("--from-folder needs --version: the number to export it as")
        yield folder, version
        return
    from serving.registry import Registry

    registry = Registry(tracking_uri)
    found = registry.find(model, version, alias)
    with TemporaryDirectory() as scratch:
        yield registry.download(found, Path(scratch)), found.version


def _exported_table(exported: list["Exported"], repository: Path) -> Table:
    table = Table(title=f"exported to {repository}", title_justify="left")
    for column in ("model", "version", ""):
        table.add_column(column)
    for entry in exported:
        table.add_row(entry.name, str(entry.version), "new" if entry.new else "unchanged")
    return table


def _print_parity(console: Console, repository: Path, model: str) -> None:
    from nuclei.imaging.images import read_frame
    from serving.parity import served_parity
    from serving.settings import FRAME_OF_EACH_KIND

    with console.status("Comparing Triton with this process"):
        frames = [read_frame(path) for path in FRAME_OF_EACH_KIND]
        found = served_parity(repository, model, frames)
    console.print(_parity_table(found))


def _parity_table(found: list["Parity"]) -> Table:
    table = Table(
        title="Triton compared with this process, largest differences (maps: 255 = 1)",
        title_justify="left",
    )
    for column in ("graph", "tiles", *found[0].differences):
        table.add_column(column)
    for entry in found:
        differences = [f"{value:.3g}" for value in entry.differences.values()]
        table.add_row(entry.graph, str(entry.tiles), *differences)
    return table
