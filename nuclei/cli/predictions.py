"""Where the nuclei come from that `nuclei evaluate` and `nuclei compare` score."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from nuclei.console import messages, print_warnings
from nuclei.errors import InvalidData, InvalidInput, InvalidOption, MissingPrerequisite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nuclei.evaluation.coco import Candidates
    from nuclei.evaluation.comparison import Comparison, Entry
    from nuclei.evaluation.timing import Cost
    from training.data.dataset import Sample

HeldOutOption = Annotated[
    bool, typer.Option("--held-out", help="Only the images that no model was trained on.")
]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model, or any program, found in every image.

    Attributes:
        name: of the model, to be read.
        labels: integer [H, W] by the id of the image.
        candidates: by the same, for COCO's scores; empty where they are not known.
        cost: of the model; None where it is not known.
    """

    name: str
    labels: "Mapping[str, NDArray[np.uint32]]"
    candidates: "Mapping[str, Candidates]" = field(default_factory=dict)
    cost: "Cost | None" = None

    def entry(self, samples: "Sequence[Sample]") -> "Entry":
        """Score them.

        Raises:
            InvalidData: they do not fit an image, which is named.
        """
        from nuclei.evaluation.comparison import Entry
        from nuclei.evaluation.scores import Evaluation

        evaluation = Evaluation.of(
            samples,
            (self.labels[sample.id] for sample in samples),
            (self.candidates.get(sample.id) for sample in samples),
        )
        return Entry(self.name, evaluation, self.cost)


def ask_locally(
    samples: "Sequence[Sample]", repository: Path, model: str, tta: bool
) -> Predictions:
    """Run a model of a repository, without a server; raises what `timed_inference` raises."""
    from nuclei.evaluation.timing import timed_inference
    from nuclei.imaging.images import frame_from_array

    frames = [frame_from_array(sample.pixels) for sample in samples]
    console = messages()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"Segmenting with {escape(model)}", total=len(frames))
        inferences, cost = timed_inference(
            repository, model, tta, frames, lambda: progress.advance(task)
        )
    print_warnings(Counter(said for inference in inferences for said in inference.warnings))
    by_id = {sample.id: inference for sample, inference in zip(samples, inferences, strict=True)}
    return Predictions(
        model_title(model, inferences[0].version, tta),
        {name: inference.labels for name, inference in by_id.items()},
        {name: inference.candidates for name, inference in by_id.items()},
        cost,
    )


def read_predictions(samples: "Sequence[Sample]", folder: Path, name: str) -> Predictions:
    """Label images of any program, named as the images.

    Args:
        name: of the predictions, to be read.

    Raises:
        InvalidData: some are missing, or are no label images; each is named.
    """
    from nuclei.quoting import listed

    files = _label_files(folder)
    found, problems = {}, []
    for sample in samples:
        try:
            found[sample.id] = _label_image(files, sample)
        except InvalidInput as error:
            problems.append(str(error))
    if problems:
        raise InvalidData(
            f"{folder}: {len(problems)} of {len(samples)} predictions cannot be scored"
            f"{listed(problems)}"
        )
    return Predictions(name, found)


def _label_files(folder: Path) -> dict[str, Path]:
    """Label images by the image they are of; those that are named as such come first."""
    from training.data.names import is_image, labelled_stem, stem_of

    if not folder.is_dir():
        raise InvalidData(f"{folder} is no folder; name one of label images")
    images = sorted(path for path in folder.iterdir() if is_image(path))
    plain = {stem_of(path): path for path in images}
    return plain | {stem: path for path in images if (stem := labelled_stem(path))}


def _label_image(files: Mapping[str, Path], sample: "Sample") -> "NDArray[np.uint32]":
    """The label image of a sample; InvalidInput names it."""
    from nuclei.imaging.images import read_labels
    from nuclei.imaging.plausibility import check_label_image

    path = files.get(sample.id)
    if path is None:
        raise InvalidData(f"no label image for {sample.id}; expected {sample.id}.tif or .png")
    labels = read_labels(path)
    if labels.shape != sample.labels.shape:
        raise InvalidData(
            f"{path} is {labels.shape} and {sample.id} is {sample.labels.shape} pixels; expected "
            "the same size"
        )
    try:
        check_label_image(labels)
    except InvalidData as error:
        raise InvalidData(f"{path}: {error}") from error
    return labels


def short_names(folders: "Sequence[Path]") -> dict[Path, str]:
    """A name for each folder: the end of its path, as long as it takes to tell them apart."""
    names = {folder: folder.resolve().parts for folder in folders}
    shown = {}
    for folder, parts in names.items():
        others = [other for one, other in names.items() if one != folder]
        length = 1
        while length < len(parts) and any(other[-length:] == parts[-length:] for other in others):
            length += 1
        shown[folder] = "/".join(parts[-length:])
    return shown


def held_out(
    samples: "Sequence[Sample]", models: Sequence[str], repository: Path, title: str
) -> "list[Sample]":
    """The samples that none of the models was trained on.

    Args:
        samples, models, repository: all of them.
        title: of the images.

    Raises:
        InvalidData: there is none.
        InvalidOption: there is no model.
        ModelNotFound: the repository lacks a model.
    """
    from nuclei.inference.onnx_engine import LocalEngine

    if not models:
        raise InvalidOption("--held-out needs a model: label images do not tell what is held out")
    engine = LocalEngine(repository)
    contracts = [engine.find(model).contract for model in models]
    kept = [
        sample
        for sample in samples
        if all(sample.id in contract.held_out for contract in contracts)
    ]
    if not kept:
        raise InvalidData(
            f"{title} has no image that was held out from the training of {' and '.join(models)}; "
            "leave out --held-out"
        )
    return kept


def require_matplotlib() -> None:
    """Raise MissingPrerequisite where it is not installed."""
    if find_spec("matplotlib") is None:
        raise MissingPrerequisite(
            "the pictures of --out need matplotlib, which is not installed: run `pip install "
            "matplotlib`, use the environment of `make train-env`, or leave out --out"
        )


def model_title(model: str, version: str, tta: bool) -> str:
    return f"{model} {version}{' with TTA' if tta else ''}"


def page(
    title: str,
    comparison: "Comparison",
    samples: "Sequence[Sample]",
    predictions: Sequence[Predictions],
) -> str:
    """The HTML report."""
    from nuclei.evaluation.report import report
    from nuclei.imaging.images import frame_from_array

    return report(
        title,
        comparison,
        [frame_from_array(sample.pixels) for sample in samples],
        [sample.labels for sample in samples],
        [[one.labels[sample.id] for sample in samples] for one in predictions],
    )
