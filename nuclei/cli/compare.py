"""`nuclei compare`: several models, or folders of label images, on the same images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclei.cli.dataset import CategoryOption, DataOption, title_of
from nuclei.cli.predictions import (
    HeldOutOption,
    Predictions,
    ask_locally,
    held_out,
    page,
    read_predictions,
    require_matplotlib,
    short_names,
)
from nuclei.cli.segmenter import DEFAULT_REPOSITORY
from nuclei.console import output
from nuclei.errors import InvalidOption, ModelNotFound
from nuclei.results_folder import ResultsFolder

if TYPE_CHECKING:
    from training.data.dataset import Sample

EPILOG = """
**Examples**

nuclei compare unet mask_rcnn yolov8 --data my_images/ --out comparison/

nuclei compare unet mask_rcnn --data my_images/ --tta --held-out

nuclei compare unet mask_rcnn --data tnbc.zip --data kromp.zip     (and by source)

nuclei compare unet others/ --data my_images/       (others/NAME.tif or .png, by any program)
"""


def compare(
    models: Annotated[
        list[str],
        typer.Argument(help="Models of the repository, or folders of label images."),
    ],
    data: DataOption,
    tta: Annotated[
        bool, typer.Option("--tta", help="Each model also with 8 rotated and mirrored views.")
    ] = False,
    held_out_only: HeldOutOption = False,
    category: CategoryOption = None,
    repository: Annotated[Path, typer.Option(help="Model repository.")] = DEFAULT_REPOSITORY,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html and comparison.json.")
    ] = None,
) -> None:
    """Compare models on the same images: scores, errors, cost and significance.

    Models run on the CPU of this machine without a server, one after the other, each in a process
    of its own. Intervals are of the mean over images (bootstrap); differences are tested by a
    permutation test over the images.

    With --out it also writes report.html, a page to look at, and all numbers as comparison.json.
    """
    from nuclei.evaluation.comparison import Comparison
    from training.data.dataset import read_datasets

    if out is not None:
        require_matplotlib()
    samples = read_datasets(data, category or ())
    served = _served(models, repository)
    if held_out_only:
        samples = held_out(samples, served, repository, title_of(data))
    results = None if out is None else ResultsFolder(out)
    predictions = list(_predictions(samples, models, served, repository, tta))
    comparison = Comparison(tuple(one.entry(samples) for one in predictions))
    console = output()
    for grid in comparison.grids():
        console.print(grid.table())
    if results is not None:
        title = f"{' against '.join(one.name for one in predictions)} on {title_of(data)}"
        numbers = json.dumps(comparison.to_dict(), indent=2, allow_nan=False)
        results.write("report.html", page(title, comparison, samples, predictions).encode())
        results.write("comparison.json", f"{numbers}\n".encode())


def _served(models: Sequence[str], repository: Path) -> list[str]:
    """The names that are models of the repository; the others are folders."""
    if len(set(models)) < len(models):
        raise InvalidOption(f"{' '.join(models)}: one is named twice; name each once")
    if all(Path(model).is_dir() for model in models):
        return []
    from nuclei.inference.onnx_engine import LocalEngine

    known = LocalEngine(repository).models()
    for model in models:
        if model not in known and not Path(model).is_dir():
            raise ModelNotFound(
                f"{model} is neither a model of {repository} ({', '.join(known)}) nor a folder of "
                "label images"
            )
    return [model for model in models if model in known]


def _predictions(
    samples: "Sequence[Sample]",
    models: Sequence[str],
    served: Sequence[str],
    repository: Path,
    tta: bool,
) -> list[Predictions]:
    folders = [Path(model) for model in models if model not in served]
    names = short_names(folders)
    found = []
    for model in models:
        if model not in served:
            found.append(read_predictions(samples, Path(model), names[Path(model)]))
            continue
        for views in (False, True) if tta else (False,):
            found.append(ask_locally(samples, repository, model, views))
    return found
