"""Scores of many predicted label images against the truth: tables, JSON and pictures."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from nuclei.errors import InvalidData
from nuclei.images import Frame
from nuclei.metrics import DSB_THRESHOLDS, score_image
from nuclei.overlay import overlay, stretched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS = ("n_true", "n_predicted")
TABLE_ROWS = {
    "n_true": "nuclei",
    "n_predicted": "nuclei found",
    "dsb_score": "DSB score",
    "ap_0.50": "AP@.50",
    "ap_0.75": "AP@.75",
    "f1_0.50": "F1@.50",
    "precision_0.50": "precision@.50",
    "recall_0.50": "recall@.50",
    "pq": "PQ",
    "mean_iou": "mean IoU",
    "dice": "Dice",
    "boundary_dice": "boundary Dice",
}
OVERALL = "overall"

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class ImageScores:
    """Scores of one image.

    Attributes:
        name: of the image.
        kind: of image, for example `histology`.
        scores: by name, as `nuclei.metrics.score_image` gives them.
    """

    name: str
    kind: str
    scores: dict[str, float]

    @classmethod
    def of(cls, name: str, kind: str, truth: Labels, predicted: Labels) -> "ImageScores":
        """Score one prediction.

        Raises:
            InvalidData: the two cannot be compared; the message names the image.
        """
        try:
            return cls(name, kind, score_image(truth, predicted))
        except InvalidData as error:
            raise InvalidData(f"{name}: {error}") from error


@dataclass(frozen=True)
class Evaluation:
    """Scores of a set of images: means over images, sums of counts.

    Attributes:
        images: at least one.
    """

    images: tuple[ImageScores, ...]

    def __post_init__(self) -> None:
        if not self.images:
            raise InvalidData("there is no image to score; expected at least one")

    def overall(self) -> dict[str, float]:
        """Every score, mean over all images; nuclei counts are summed."""
        return _mean(self.images)

    def by_kind(self) -> dict[str, dict[str, float]]:
        """The same for the images of each kind, by kind."""
        kinds = sorted({image.kind for image in self.images})
        return {
            kind: _mean([image for image in self.images if image.kind == kind]) for kind in kinds
        }

    def to_json(self) -> str:
        return json.dumps(
            {
                OVERALL: self.overall(),
                "by_kind": self.by_kind(),
                "images": [
                    {"name": image.name, "kind": image.kind, **image.scores}
                    for image in self.images
                ],
            },
            indent=2,
        )

    def table(self, title: str) -> Table:
        """One line per score, one column per kind of image and one for all."""
        groups = {**self.by_kind(), OVERALL: self.overall()}
        table = Table(title=title)
        table.add_column("")
        for group in groups:
            table.add_column(group, justify="right")
        images = [sum(group in (OVERALL, i.kind) for i in self.images) for group in groups]
        table.add_row("images", *map(str, images))
        for name, heading in TABLE_ROWS.items():
            digits = 0 if name in COUNTS else 3
            table.add_row(heading, *(f"{scores[name]:.{digits}f}" for scores in groups.values()))
        return table


def figures(
    evaluation: Evaluation,
    frames: Sequence[Frame],
    truths: Sequence[Labels],
    predicted: Sequence[Labels],
) -> "dict[str, Figure]":
    """The pictures of an evaluation by file name.

    Args:
        evaluation: of the images.
        frames: the images, in the order of `evaluation.images`.
        truths: their true labels, integer [H, W].
        predicted: their predicted labels, integer [H, W].
    """
    shown = [
        Comparison(
            f"{evaluation.images[i].kind} {evaluation.images[i].name[:12]}\n"
            f"DSB score {evaluation.images[i].scores['dsb_score']:.3f}",
            *(frames[i], truths[i], predicted[i]),
        )
        for i in _telling(evaluation)
    ]
    return {
        "scores_per_image.png": figure_of_images(evaluation),
        "scores_per_threshold.png": figure_of_thresholds(evaluation),
        "comparisons.png": figure_of_comparisons(shown),
    }


def _telling(evaluation: Evaluation) -> list[int]:
    """Indices of the worst, the middle and the best image of each kind."""
    ranked = sorted(
        range(len(evaluation.images)), key=lambda i: evaluation.images[i].scores["dsb_score"]
    )
    chosen: list[int] = []
    for kind in evaluation.by_kind():
        own = [i for i in ranked if evaluation.images[i].kind == kind]
        chosen += dict.fromkeys([own[0], own[len(own) // 2], own[-1]])
    return chosen


def figure_of_images(evaluation: Evaluation) -> "Figure":
    """DSB score of every image, from worst to best, coloured by kind."""
    figure, axes = _figure(9, 4)
    ranked = sorted(evaluation.images, key=lambda image: image.scores["dsb_score"])
    for kind, mean in evaluation.by_kind().items():
        bars = [
            (rank, image.scores["dsb_score"])
            for rank, image in enumerate(ranked)
            if image.kind == kind
        ]
        axes.bar(*zip(*bars, strict=True), width=1.0, label=f"{kind} {mean['dsb_score']:.3f}")
    axes.axhline(evaluation.overall()["dsb_score"], color="black", linewidth=1, linestyle="--")
    axes.set(xlabel="image, by rising score", ylabel="DSB score", ylim=(0, 1))
    axes.set_title(f"Score per image, mean {evaluation.overall()['dsb_score']:.3f}")
    axes.legend(title="mean per kind")
    return figure


def figure_of_thresholds(evaluation: Evaluation) -> "Figure":
    """Mean AP against the IoU threshold, overall and per kind."""
    figure, axes = _figure(6, 4)
    for kind, scores in (*evaluation.by_kind().items(), (OVERALL, evaluation.overall())):
        ap = [scores[f"ap_{threshold:.2f}"] for threshold in DSB_THRESHOLDS]
        style = {"color": "black", "linewidth": 2} if kind == OVERALL else {}
        axes.plot(DSB_THRESHOLDS, ap, marker="o", label=kind, **style)
    axes.set(xlabel="IoU threshold", ylabel="AP = TP / (TP + FP + FN)", ylim=(0, 1))
    axes.set_title("Score against IoU threshold")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


@dataclass(frozen=True, eq=False)
class Comparison:
    """One line of the picture of comparisons; labels are integer [H, W]."""

    title: str
    frame: Frame
    truth: Labels
    predicted: Labels


def figure_of_comparisons(comparisons: Sequence[Comparison]) -> "Figure":
    """Image, truth, prediction and difference, one line per image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.6 * len(comparisons)), layout="constrained")
    grid = figure.subplots(len(comparisons), 4, squeeze=False)
    headings = ("image", "truth", "prediction", "green right, red too much, blue missed")
    for row, comparison in zip(grid, comparisons, strict=True):
        for axes, heading, picture in zip(row, headings, _pictures(comparison), strict=True):
            axes.imshow(picture, aspect="equal")
            axes.set_title(heading, fontsize=9)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(comparison.title, fontsize=9)
    return figure


def _mean(images: Iterable[ImageScores]) -> dict[str, float]:
    scores = [image.scores for image in images]
    return {
        name: float((np.sum if name in COUNTS else np.mean)([s[name] for s in scores]))
        for name in scores[0]
    }


def _figure(width_in: float, height_in: float) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()


def _pictures(comparison: Comparison) -> tuple[NDArray[np.uint8], ...]:
    frame = comparison.frame
    right = (comparison.truth != 0) & (comparison.predicted != 0)
    difference = stretched(frame) // 3
    difference[right] += np.array((0, 110, 0), np.uint8)
    difference[(comparison.predicted != 0) & ~right] += np.array((160, 0, 0), np.uint8)
    difference[(comparison.truth != 0) & ~right] += np.array((0, 40, 160), np.uint8)
    return (
        stretched(frame),
        overlay(frame, comparison.truth),
        overlay(frame, comparison.predicted),
        difference,
    )
