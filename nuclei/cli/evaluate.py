"""`nuclei evaluate`: a model, or any folder of label images, against the truth."""

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from nuclei.cli.gateway import (
    DEFAULT_ADDRESS,
    AddressOption,
    Gateway,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TokenOption,
)
from nuclei.cli.segmenter import (
    DEFAULT_REPOSITORY,
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

    from nuclei.evaluation import Evaluation
    from training.dataset import Sample

    Predictions = dict[str, NDArray[np.uint32]]

EPILOG = """
**Examples**

nuclei evaluate my_images/ --local --out scores     (without a server)

nuclei evaluate my_images.zip --tta                 (by the gateway of `nuclei serve`)

nuclei evaluate my_images/ --local --held-out       (only what the model was not trained on)

nuclei evaluate my_images/ --predictions others/    (others/NAME.tif or .png, by any program)
"""

LABEL_SUFFIXES = (".labels.tif", ".labels.png", ".tif", ".tiff", ".png")


def evaluate(
    data: Annotated[
        Path, typer.Argument(help="Folder or zip of images/, masks/ and manifest.csv.")
    ],
    model: ModelOption = "unet",
    tta: TtaOption = False,
    local: LocalOption = False,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score these label images, named as the images, instead of a model."),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Only the images that the model was not trained on."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json and pictures.")] = None,
    address: AddressOption = DEFAULT_ADDRESS,
    token: TokenOption = "",
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
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
    if held_out:
        samples = _held_out(samples, model, repository, data)
    if predictions is not None:
        found, title = _read_predictions(samples, predictions), str(predictions)
    else:
        gateway = Gateway(address, token, tls_ca, tls_certificate, tls_key)
        found, title = _predict(samples, model, tta, local, gateway, repository)
    evaluation = Evaluation(
        tuple(
            ImageScores.of(sample.id, sample.kind, sample.labels, found[sample.id])
            for sample in samples
        )
    )
    if out is not None:
        _write(out, evaluation, samples, found)
    Console().print(evaluation.table(f"{title} on {data}"))


def _held_out(
    samples: "Sequence[Sample]", model: str, repository: Path, data: Path
) -> "list[Sample]":
    from nuclei.local import LocalEngine

    contract = asyncio.run(LocalEngine(repository).contract(model))
    kept = [sample for sample in samples if sample.id in contract.held_out]
    if not kept:
        raise InvalidData(
            f"{data} has none of the {len(contract.held_out)} images that {model} was validated "
            "on; leave out --held-out"
        )
    return kept


def _predict(
    samples: "Sequence[Sample]",
    model: str,
    tta: bool,
    local: bool,
    gateway: Gateway,
    repository: Path,
) -> "tuple[Predictions, str]":
    from nuclei.images import frame_from_array

    found = {}
    console = Console(stderr=True)
    with open_segmenter(model, tta, local, gateway, repository) as segmenter:
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
    from nuclei.charts import figures
    from nuclei.images import frame_from_array

    pictures = figures(
        evaluation,
        [frame_from_array(sample.pixels) for sample in samples],
        [sample.labels for sample in samples],
        [found[sample.id] for sample in samples],
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scores.json").write_text(evaluation.to_json() + "\n")
        for name, figure in pictures.items():
            figure.savefig(out / name, dpi=100)
    except OSError as error:
        raise InvalidOption(f"{out} cannot be written: {error.strerror}") from error
