"""`nuclei calibrate`: what the quality of frames is measured against."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nuclei.cli.dataset import CategoryOption
from nuclei.cli.predictions import short_names
from nuclei.cli.segmenter import DEFAULT_REPOSITORY, ModelOption, VersionOption
from nuclei.console import messages, output
from nuclei.errors import InvalidData

if TYPE_CHECKING:
    from nuclei.inference.contract import Contract
    from nuclei.quality.reference import GroupReference
    from training.data.dataset import Sample

EPILOG = """
**Examples**

nuclei calibrate my_images/                          (the model `unet`, in model_repository/)

nuclei calibrate ours.zip tnbc.zip kromp.zip         (three sources: the error is that on a new one)

nuclei calibrate my_images/ --model yolov8 --version 2 --repository /srv/models

Then: restart `nuclei serve`, or the service that serves the repository
"""
# Of what is random in a calibration: which images are drawn, and how copies are spoiled.
SEED = 0


def calibrate(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Folders or zips of images with their nuclei, in any form of docs/data.md; each "
            "is a source."
        ),
    ],
    model: ModelOption = "unet",
    version: VersionOption = None,
    repository: Annotated[
        Path, typer.Option(help="Model repository, in which the version is changed.")
    ] = DEFAULT_REPOSITORY,
    images: Annotated[
        int, typer.Option(min=1, help="Most images of a source, drawn at random.")
    ] = 100,
    category: CategoryOption = None,
) -> None:
    """Calibrate the measures of quality of a served model: limits, drift, estimated score.

    Use images as your microscope takes them, which the model was not trained on, 20 or more of
    grey or of colour: frames are called doubtful when they differ from these, and drift is measured
    against these. Each image is segmented as it is and as spoiled copies (out of focus, noisy),
    from which the estimated score learns. Of the model's own data set only the images that its
    training held out are used.

    Only the configuration in the Triton repository is changed, not a registered version.
    A later `nuclei export` or `nuclei sync` of the same version knows nothing of it.
    """
    from nuclei.inference.onnx_engine import LocalEngine
    from serving.repository.export import set_contract
    from training.quality import MIN_FRAMES, calibrated, calibration_images, observe

    engine = LocalEngine(repository)
    served = engine.find(model, version)
    names = short_names(data)
    sources = {names[path]: _images(path, served.contract, images, category) for path in data}
    if not calibration_images([sample for samples in sources.values() for sample in samples]):
        n_images = sum(map(len, sources.values()))
        raise InvalidData(
            f"{', '.join(map(str, data))}: {n_images} images are too few to calibrate with; "
            f"expected {MIN_FRAMES} of grey or of colour, which {model} {served.version} was not "
            "trained on"
        )
    observed = observe(sources, engine, served, seed=SEED)
    with messages().status("Looking for limits, and simulating days"):
        quality = calibrated(observed, seed=SEED)
    assert quality is not None, "there are enough images of a group"
    contract = replace(served.contract, quality=quality)
    changed = set_contract(repository, model, int(served.version), contract)
    console = output()
    for group, reference in quality.groups.items():
        console.print(
            _table(f"{model} {served.version}: {reference.frames} {group} frames", reference)
        )
        console.print(_summary(group, reference), soft_wrap=True)
    messages().print(
        f"changed {' and '.join(changed)} in {repository}: restart what serves it"
        if changed
        else f"{repository} says the same already",
        soft_wrap=True,
    )


def _images(
    path: Path, contract: "Contract", most: int, categories: Sequence[str] | None
) -> "list[Sample]":
    """The images of a source that the model was not trained on, some of them at random."""
    import numpy as np

    from training.data.dataset import read_dataset

    samples = read_dataset(path, categories or ())
    held_out = [sample for sample in samples if sample.id in contract.held_out]
    if held_out:
        messages().print(
            f"{path}: the {len(held_out)} of {len(samples)} images that the training of the model "
            "held out",
            soft_wrap=True,
        )
        samples = held_out
    chosen = np.random.default_rng(SEED).permutation(len(samples))[:most]
    return [samples[index] for index in sorted(chosen)]


def _table(title: str, reference: "GroupReference") -> Table:
    """The measures of a group: what is usual, what is a warning, what is drift."""
    table = Table(title=title, title_justify="left")
    for column in ("measure", "5 %", "median", "95 %", "too low", "too high", "drift (PSI)"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for name, feature in reference.features.items():
        numbers = (
            *(feature.quantile(level) for level in (0.05, 0.5, 0.95)),
            *feature.limits,
            feature.drift_threshold,
        )
        table.add_row(name, *("" if number is None else f"{number:.3g}" for number in numbers))
    return table


def _summary(group: str, reference: "GroupReference") -> str:
    score = reference.score
    warned = f"{reference.false_alarm_rate:.1%} of {group} frames like these get a warning"
    if score is None:
        return f"{warned}; there were too few to estimate scores"
    unseen = "sources" if score.sources > 1 else "images"
    return (
        f"{warned}; estimated scores of unseen {unseen} are off by {score.error:.3f} on average "
        f"(Spearman's correlation {score.correlation:.2f})"
    )
