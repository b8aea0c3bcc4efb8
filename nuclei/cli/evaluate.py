"""`nuclei evaluate`: a model, or any folder of label images, against the truth."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from nuclei.cli.segmenter import (
    DEFAULT_ADDRESS,
    DEFAULT_REPOSITORY,
    AddressOption,
    LocalOption,
    ModelOption,
    RepositoryOption,
    TtaOption,
    open_segmenter,
)
from nuclei.errors import InvalidData, InvalidOption, MissingPrerequisite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nuclei.evaluation import Comparison, Evaluation
    from training.dataset import Sample

    Predictions = dict[str, NDArray[np.uint32]]

EPILOG = """
**Examples**

nuclei evaluate my_images/ --local --out scores     (without a server)

nuclei evaluate my_images.zip --tta                 (by the gateway of `nuclei serve`)

nuclei evaluate my_images/ --predictions others/    (others/NAME.tif or .png, by any program)
"""

LABEL_SUFFIXES = (".labels.tif", ".labels.png", ".tif", ".tiff", ".png")
SHOWN_PER_KIND = 3


def evaluate(
    data: Annotated[
        Path, typer.Argument(help="Folder or zip of images/, masks/ and manifest.csv.")
    ],
    model: ModelOption = "unet",
    tta: TtaOption = False,
    local: LocalOption = False,
    address: AddressOption = DEFAULT_ADDRESS,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score these label images, named as the images, instead of a model."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json and pictures.")] = None,
) -> None:
    """Score a model, or any label images, against the truth.

    Prints the mean of each score over all images and per kind of image. AP@t is
    TP / (TP + FP + FN), a match being an IoU above t. The DSB score is the mean of AP@t over
    t = .50, .55, ... .95.

    With --out also writes scores.json, scores_per_image.png, scores_per_threshold.png and
    comparisons.png.
    """
    from nuclei.evaluation import Evaluation, ImageScores
    from training.dataset import read_dataset

    if out is not None and find_spec("matplotlib") is None:
        raise MissingPrerequisite(
            "the pictures of --out need matplotlib, which the serving environment leaves out: "
            "pip install matplotlib, use the environment of `make train-env`, or leave out --out"
        )
    samples = read_dataset(data)
    if predictions is not None:
        found, title = _read_predictions(samples, predictions), str(predictions)
    else:
        found, title = _predict(samples, model, tta, local, address, repository)
    evaluation = Evaluation(
        tuple(
            ImageScores.of(sample.id, sample.kind, sample.labels, found[sample.id])
            for sample in samples
        )
    )
    if out is not None:
        _write(out, evaluation, samples, found)
    Console().print(evaluation.table(f"{title} on {data}"))


def _predict(
    samples: "Sequence[Sample]",
    model: str,
    tta: bool,
    local: bool,
    address: str,
    repository: Path,
) -> "tuple[Predictions, str]":
    from nuclei.images import frame_from_array

    found = {}
    console = Console(stderr=True)
    with open_segmenter(model, tta, local, address, repository) as segmenter:
        for sample in track(samples, "Segmenting", console=console, transient=True):
            segmentation = segmenter(frame_from_array(sample.pixels))
            found[sample.id] = segmentation.labels
    return found, f"{model} {segmentation.version}{' with TTA' if tta else ''}"


def _read_predictions(samples: "Sequence[Sample]", folder: Path) -> "Predictions":
    from nuclei.images import read_labels

    found = {}
    for sample in samples:
        candidates = [folder / f"{sample.id}{suffix}" for suffix in LABEL_SUFFIXES]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise InvalidData(
                f"{folder} has no label image for {sample.id}; expected {sample.id}.tif or .png"
            )
        found[sample.id] = read_labels(path)
    return found


def _write(
    out: Path, evaluation: "Evaluation", samples: "Sequence[Sample]", found: "Predictions"
) -> None:
    from nuclei.evaluation import figure_of_comparisons, figure_of_images, figure_of_thresholds

    pictures = {
        "scores_per_image.png": figure_of_images(evaluation),
        "scores_per_threshold.png": figure_of_thresholds(evaluation),
        "comparisons.png": figure_of_comparisons(_comparisons(evaluation, samples, found)),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text(evaluation.to_json() + "\n")
        for name, figure in pictures.items():
            figure.savefig(out / name, dpi=100)
    except OSError as error:
        raise InvalidOption(f"{out} cannot be written: {error.strerror}") from error


def _comparisons(
    evaluation: "Evaluation", samples: "Sequence[Sample]", found: "Predictions"
) -> "list[Comparison]":
    """The worst, the middle and the best image of each kind."""
    from nuclei.evaluation import Comparison
    from nuclei.images import frame_from_array

    by_id = {sample.id: sample for sample in samples}
    shown = []
    for kind in evaluation.by_kind():
        ranked = sorted(
            (image for image in evaluation.images if image.kind == kind),
            key=lambda image: image.scores["dsb_score"],
        )
        places = {
            round(i * (len(ranked) - 1) / (SHOWN_PER_KIND - 1)) for i in range(SHOWN_PER_KIND)
        }
        for place in sorted(places):
            image = ranked[place]
            sample = by_id[image.name]
            title = f"{kind} {image.name[:12]}\nDSB score {image.scores['dsb_score']:.3f}"
            shown.append(
                Comparison(title, frame_from_array(sample.pixels), sample.labels, found[sample.id])
            )
    return shown
