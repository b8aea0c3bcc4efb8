"""A comparison of models as one self-contained HTML page."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from nuclei.evaluation.charts import RESULTS, charts_of_models, error_picture, outline_px
from nuclei.evaluation.comparison import TESTED, Comparison
from nuclei.evaluation.metrics import Labels
from nuclei.evaluation.scores import ERRORS
from nuclei.evaluation.statistics import CONFIDENCE
from nuclei.formats.overlay import enlarged, overlay
from nuclei.imaging.images import Frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.html")
WORST_IMAGES = 4
DIFFERING_IMAGES = 3
PICTURE_PX = 640
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Picture:
    """A picture of the page; the address is a data URL."""

    caption: str
    address: str


@dataclass(frozen=True)
class ShownImage:
    """One image: the image, the truth, and the prediction of each model."""

    title: str
    pictures: tuple[Picture, ...]


def report(
    title: str,
    comparison: Comparison,
    frames: Sequence[Frame],
    truths: Sequence[Labels],
    predicted: Sequence[Sequence[Labels]],
) -> str:
    """The page.

    Args:
        title: of the page.
        comparison: of one model or several.
        frames: the images, in the order of the evaluations.
        truths: their true labels, integer [H, W].
        predicted: for each entry of the comparison the labels of each image.
    """
    evaluations = {entry.name: entry.evaluation for entry in comparison.entries}

    def shown(index: int) -> ShownImage:
        labels = [of_model[index] for of_model in predicted]
        return _shown(comparison, index, frames[index], truths[index], labels)

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        title=title,
        subject=_subject(comparison),
        findings=_findings(comparison),
        grids=comparison.grids(),
        charts={name: svg(figure) for name, figure in charts_of_models(evaluations).items()},
        legend=RESULTS,
        galleries={
            heading: [shown(index) for index in indices]
            for heading, indices in _images_to_show(comparison).items()
        },
    )


def _subject(comparison: Comparison) -> str:
    evaluation = comparison.evaluations[0]
    modalities = ", ".join(
        f"{len(evaluation.values(TESTED, modality))} {modality}"
        for modality in evaluation.by_modality()
    )
    nuclei = evaluation.overall()["n_true"]
    return f"{len(evaluation.images)} images ({modalities}) with {nuclei:,.0f} nuclei"


def _findings(comparison: Comparison) -> list[str]:
    """The main results, in sentences."""
    ranked = sorted(comparison.entries, key=lambda entry: -entry.evaluation.overall()["dsb_score"])
    best = ranked[0].evaluation
    low, high = best.interval(TESTED)
    sentences = [
        f"{ranked[0].name} reaches a DSB score of {best.overall()[TESTED]:.3f} "
        f"({100 * CONFIDENCE:.0f} % interval {low:.3f} to {high:.3f})."
    ]
    tests = comparison.tests()
    for other in ranked[1:]:
        test = tests.get((ranked[0].name, other.name)) or tests[other.name, ranked[0].name]
        verdict = "better" if test.p < 1 - CONFIDENCE else "not significantly better"
        sentences.append(
            f"It is {verdict} than {other.name} on these images: by {abs(test.difference):.3f}, "
            f"p = {test.p:.4f}."
        )
    return sentences


def _images_to_show(comparison: Comparison) -> dict[str, list[int]]:
    """Indices of the images to look at, by heading."""
    scores = np.array([evaluation.values(TESTED) for evaluation in comparison.evaluations])
    rising = np.argsort(scores.mean(axis=0), kind="stable").tolist()
    modalities = [image.modality for image in comparison.evaluations[0].images]
    of_modalities = [
        [i for i in rising if modalities[i] == modality] for modality in sorted(set(modalities))
    ]
    worst = [*rising[:WORST_IMAGES], *(own[0] for own in of_modalities)]
    chosen = {
        "Lowest scores": list(dict.fromkeys(worst)),
        "Highest scores": [own[-1] for own in of_modalities],
    }
    if len(scores) > 1:
        differing = np.argsort(-np.ptp(scores, axis=0), kind="stable")
        chosen["Where they differ most"] = differing[:DIFFERING_IMAGES].tolist()
    return chosen


def _shown(
    comparison: Comparison, index: int, frame: Frame, truth: Labels, predicted: Sequence[Labels]
) -> ShownImage:
    plain = enlarged(frame)
    pictures = [
        Picture("image", _jpeg(plain)),
        Picture("truth", _jpeg(overlay(frame, truth, outline_px(plain)))),
    ]
    for entry, labels in zip(comparison.entries, predicted, strict=True):
        scores = entry.evaluation.images[index].scores
        errors = error_picture(frame, truth, labels)
        pictures.append(Picture(f"{entry.name}: {_summary(scores)}", _jpeg(errors)))
    image = comparison.evaluations[0].images[index]
    height, width = truth.shape
    n_nuclei = f"{image.scores['n_true']:.0f} nuclei"
    return ShownImage(
        f"{image.name} · {image.modality} · {height} x {width} · {n_nuclei}",
        tuple(pictures),
    )


def _summary(scores: Mapping[str, float]) -> str:
    errors = [f"{scores[error]:.0f} {error}" for error in ERRORS if scores[error]]
    return ", ".join([f"DSB {scores[TESTED]:.3f}", *errors])


def _jpeg(picture: NDArray[np.uint8]) -> str:
    """Data URL of uint8 RGB [H, W, 3]."""
    scale = PICTURE_PX / max(picture.shape)
    if scale < 1:
        picture = np.asarray(
            cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
        )
    _, data = cv2.imencode(".jpg", picture[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return _data_url("image/jpeg", data.tobytes())


def svg(figure: "Figure") -> str:
    """Data URL of a chart."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return _data_url("image/svg+xml", file.getvalue())


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
