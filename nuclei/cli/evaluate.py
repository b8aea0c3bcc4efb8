"""`nuclei evaluate`: a model, or any folder of label images, against the truth."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nuclei.cli.dataset import DATA_HELP, CategoryOption, title_of
from nuclei.cli.gateway import (
    DEFAULT_ADDRESS,
    AddressOption,
    Gateway,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TokenOption,
)
from nuclei.cli.predictions import (
    HeldOutOption,
    Predictions,
    ask_locally,
    model_title,
    page,
    read_predictions,
    require_matplotlib,
)
from nuclei.cli.predictions import held_out as held_out_of
from nuclei.cli.segmenter import (
    DEFAULT_REPOSITORY,
    LocalOption,
    ModelOption,
    Opener,
    RepositoryOption,
    TtaOption,
)
from nuclei.console import messages, output, print_warnings, tracked
from nuclei.results_folder import ResultsFolder

if TYPE_CHECKING:
    from nuclei.evaluation.comparison import Comparison
    from training.data.dataset import Sample

EPILOG = """
**Examples**

nuclei evaluate my_images/ --local --out scores     (without a server)

nuclei evaluate my_images.zip --tta                 (through the gateway of `nuclei serve`)

nuclei evaluate my_images/ --local --held-out       (only images the model was not trained on)

nuclei evaluate my_images/ --predictions others/    (others/NAME.tif or .png, by any program)
"""


def evaluate(
    data: Annotated[
        list[Path],
        typer.Argument(help=f"{DATA_HELP}; several are scored by source, too."),
    ],
    model: ModelOption = "unet",
    tta: TtaOption = False,
    local: LocalOption = False,
    repository: RepositoryOption = DEFAULT_REPOSITORY,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Score these label images, with the names of the images, instead of a model."
        ),
    ] = None,
    held_out: HeldOutOption = False,
    category: CategoryOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html, scores.json and pictures.")
    ] = None,
    address: AddressOption = DEFAULT_ADDRESS,
    token: TokenOption = "",
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
) -> None:
    """Score a model, or any label images, against the truth.

    Prints the mean of each score over all images and per modality, and the 95 % interval of
    the mean (bootstrap over images). AP@t is TP / (TP + FP + FN), where a match is an IoU above t.
    The DSB score is the mean of AP@t over t = .50, .55, ... .95. With --local there are also COCO's
    AP and AR, which rank all candidates by their scores, and time and memory.

    With --out it also writes report.html, a page to look at, its numbers as scores.json, and
    scores_per_image.png, scores_per_threshold.png and comparisons.png.
    """
    from nuclei.evaluation.comparison import Comparison
    from training.data.dataset import read_datasets

    if out is not None:
        require_matplotlib()
    samples = read_datasets(data, category or ())
    if held_out:
        samples = held_out_of(samples, [model], repository, title_of(data))
    results = None if out is None else ResultsFolder(out)
    if predictions is not None:
        found = read_predictions(samples, predictions, predictions.resolve().name)
    elif local:
        found = ask_locally(samples, repository, model, tta)
    else:
        gateway = Gateway(address, token, tls_ca, tls_certificate, tls_key)
        found = _ask_gateway(samples, model, tta, gateway)
    comparison = Comparison((found.entry(samples),))
    console = output()
    console.print(comparison.evaluations[0].table(f"{found.name} on {title_of(data)}"))
    for grid in comparison.details():
        console.print(grid.table())
    if results is not None:
        _write(results, f"{found.name} on {title_of(data)}", comparison, samples, found)


def _ask_gateway(
    samples: "Sequence[Sample]", model: str, tta: bool, gateway: Gateway
) -> Predictions:
    from nuclei.imaging.images import frame_from_array

    found = {}
    warnings: Counter[str] = Counter()
    console = messages()
    with Opener(model, None, tta, False, gateway, DEFAULT_REPOSITORY)() as segmenter:
        for sample in tracked(samples, "Segmenting"):
            segmentation = segmenter(frame_from_array(sample.pixels))
            found[sample.id] = segmentation.labels
            warnings.update(segmentation.warnings)
    print_warnings(warnings, console)
    return Predictions(model_title(model, segmentation.version, tta), found)


def _write(
    results: ResultsFolder,
    title: str,
    comparison: "Comparison",
    samples: "Sequence[Sample]",
    found: Predictions,
) -> None:
    from nuclei.evaluation.charts import figures
    from nuclei.imaging.images import frame_from_array

    evaluation = comparison.evaluations[0]
    pictures = figures(
        evaluation,
        [frame_from_array(sample.pixels) for sample in samples],
        [sample.labels for sample in samples],
        [found.labels[sample.id] for sample in samples],
    )
    results.write("scores.json", f"{evaluation.to_json()}\n".encode())
    results.write("report.html", page(title, comparison, samples, [found]).encode())
    for name, figure in pictures.items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=100, format="png")
        results.write(name, picture.getvalue())
