"""`nuclei train all`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nuclei.cli.dataset import CategoryOption
from nuclei.cli.train.options import (
    DataLicenceOption,
    DeviceOption,
    TrackingUriOption,
    best_device,
    require_training,
    resolved,
)
from nuclei.console import output
from nuclei.registry import default_tracking_uri

EPILOG = """
**Examples**

nuclei train all stage1_train.zip              (again after a stop: it skips what is done)

nuclei train all stage1_train.zip --only unet --only linknet --only unet_linknet

nuclei train all stage1_train.zip --minutes 6.5  (on a GPU that is available for ten minutes)

With `--minutes` the networks are only trained, side by side, for that long. Then copy the folder of
runs to a machine with MLflow, and call it without `--minutes` to tune, export and register them.
"""


def train_all(
    data: Annotated[list[Path], typer.Argument(help="Folders and zips of images and masks.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs, with a folder for each.")] = Path(
        "runs/all"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this model; repeat for several.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of each training instead of the plan's, for a trial.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Only train, all networks side by side, for this many minutes; on a GPU.",
            show_default=False,
        ),
    ] = None,
    category: CategoryOption = None,
    data_licence: DataLicenceOption = "",
    device: DeviceOption = None,
    tracking_uri: TrackingUriOption = None,
) -> None:
    """Train and register every model of the project, large ones where there is a GPU.

    A training that was stopped continues; models that are registered already are skipped.
    """
    require_training()
    from nuclei.errors import InvalidOption
    from training.data.dataset import read_datasets
    from training.hardware import check_device
    from training.job import VERSION_FILE, train
    from training.plan import budget_of, carried, keep_budget, plan
    from training.ranks import joined, n_processes
    from training.side_by_side import train_side_by_side

    if n_processes() > 1:
        raise InvalidOption(
            "`nuclei train all` trains one model after the other in one process; start it without "
            "torchrun, or a single model with it"
        )
    device = device or best_device()
    check_device(device)
    uri = tracking_uri or default_tracking_uri()
    console = output()
    budget, categories = budget_of(out, device), tuple(category or ())
    planned = list(
        plan(resolved(data), out, budget, device, steps, minutes, categories, data_licence)
    )
    names = [one.name for one in planned]
    unknown = sorted(set(only or ()) - set(names))
    if unknown:
        raise InvalidOption(f"--only {unknown[0]} is unknown; expected one of {', '.join(names)}")
    chosen = [one for one in planned if not only or one.name in only]
    if minutes is not None and all(one.ensemble for one in chosen):
        raise InvalidOption(
            "--minutes trains networks, and these only combine trained ones; leave it out"
        )
    if not out.exists():  # what cannot be used must leave nothing behind
        read_datasets(data, categories)
    keep_budget(out, budget)
    if minutes is not None:
        train_side_by_side({one.name: one.make() for one in chosen if not one.ensemble}, out)
        images = " ".join(map(str, data))
        console.print(f"next: nuclei train all {images} --out {out}   (tunes, exports, registers)")
        return
    table = Table("model", "version", "DSB score", "with TTA")
    for number, one in enumerate(chosen, start=1):
        folder = out / one.name
        if not (folder / VERSION_FILE).exists():
            console.print(f"{one.name}, {number} of {len(chosen)}", style="bold")
            recipe = carried(one.make(), folder)
            with joined(recipe.schedule) as rank:
                train(recipe, folder, uri, rank)
        version = json.loads((folder / VERSION_FILE).read_text())
        scores = (f"{version['scores'][name]:.3f}" for name in ("dsb_score", "tta/dsb_score"))
        table.add_row(version["name"], version["version"], *scores)
    console.print(table)
    if "yolov8" not in names:
        console.print(
            "YOLOv8 was left out: `make yolov8-env` installs ultralytics (AGPL-3.0) for it"
        )
