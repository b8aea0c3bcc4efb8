"""Pictures of evaluations: charts of scores, and images with their nuclei drawn in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nuclei.evaluation.coco import RECALLS, THRESHOLDS, precisions
from nuclei.evaluation.metrics import DSB_THRESHOLDS, Labels, Overlap
from nuclei.evaluation.scores import ERRORS, OVERALL, Evaluation
from nuclei.formats.overlay import draw_outlines, enlarged, overlay, stretched
from nuclei.imaging.images import Frame
from nuclei.quoting import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinguishable with any colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
RESULTS = {
    "right": (30, 190, 70),
    "missed": (50, 130, 255),
    "extra": (240, 40, 40),
    "merged": (255, 150, 0),
    "split": (225, 70, 235),
}
FILL = 0.4
OUTLINES_PER_SIDE = 250
PR_THRESHOLDS = {0: "-", 5: "--"}


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
        PicturedImage(
            f"{evaluation.images[i].modality} {evaluation.images[i].name[:12]}\n"
            f"DSB score {evaluation.images[i].scores['dsb_score']:.3f}",
            *(frames[i], truths[i], predicted[i]),
        )
        for i in _worst_middle_best(evaluation)
    ]
    return {
        "scores_per_image.png": figure_of_images(evaluation),
        "scores_per_threshold.png": figure_of_thresholds(evaluation),
        "comparisons.png": figure_of_comparisons(shown),
    }


def _worst_middle_best(evaluation: Evaluation) -> list[int]:
    """Indices of the worst, the middle and the best image of each modality."""
    ranked = sorted(
        range(len(evaluation.images)), key=lambda i: evaluation.images[i].scores["dsb_score"]
    )
    chosen: list[int] = []
    for modality in evaluation.by_modality():
        own = [i for i in ranked if evaluation.images[i].modality == modality]
        chosen += dict.fromkeys([own[0], own[len(own) // 2], own[-1]])
    return chosen


def figure_of_images(evaluation: Evaluation) -> "Figure":
    """DSB score of every image, from worst to best, coloured by modality."""
    figure, axes = _figure(9, 4)
    ranked = sorted(evaluation.images, key=lambda image: image.scores["dsb_score"])
    for modality, mean in evaluation.by_modality().items():
        bars = [
            (rank, image.scores["dsb_score"])
            for rank, image in enumerate(ranked)
            if image.modality == modality
        ]
        axes.bar(
            *zip(*bars, strict=True),
            width=1.0,
            label=literal(f"{modality} {mean['dsb_score']:.3f}"),
        )
    axes.axhline(evaluation.overall()["dsb_score"], color="black", linewidth=1, linestyle="--")
    axes.set(xlabel="image, by rising score", ylabel="DSB score", ylim=(0, 1))
    axes.set_title(f"Score per image, mean {evaluation.overall()['dsb_score']:.3f}")
    axes.legend(loc="upper left", title="mean per modality")
    return figure


def figure_of_thresholds(evaluation: Evaluation) -> "Figure":
    """Mean AP against the IoU threshold, overall and per modality."""
    figure, axes = _figure(6, 4)
    for modality, scores in (*evaluation.by_modality().items(), (OVERALL, evaluation.overall())):
        style = {"color": "black", "linewidth": 2} if modality == OVERALL else {}
        axes.plot(DSB_THRESHOLDS, _ap(scores), marker="o", label=literal(modality), **style)
    axes.set(xlabel="IoU threshold", ylabel="AP = TP / (TP + FP + FN)", ylim=(0, 1))
    axes.set_title("Score against IoU threshold")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return figure


@dataclass(frozen=True, eq=False)
class PicturedImage:
    """One line of the picture of comparisons; labels are integer [H, W]."""

    title: str
    frame: Frame
    truth: Labels
    predicted: Labels


def figure_of_comparisons(images: Sequence[PicturedImage]) -> "Figure":
    """Image, truth, prediction and difference, one line per image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.6 * len(images)), layout="constrained")
    grid = figure.subplots(len(images), 4, squeeze=False)
    headings = ("image", "truth", "prediction", "green right, red too much, blue missed")
    for row, image in zip(grid, images, strict=True):
        for axes, heading, picture in zip(row, headings, _pictures(image), strict=True):
            axes.imshow(picture, aspect="equal")
            axes.set_title(heading, fontsize=9)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(literal(image.title), fontsize=9)
    return figure


def charts_of_models(models: Mapping[str, Evaluation]) -> "dict[str, Figure]":
    """Charts of several models on the same images, by heading.

    Args:
        models: the evaluation of each model, by its name.
    """
    charts = {
        "Score against the IoU asked for": chart_of_thresholds(models),
        "Score of every image": chart_of_images(models),
        "Errors": chart_of_errors(models),
        "Recall by size of nucleus": chart_of_sizes(models),
        "Nuclei counted": chart_of_counts(models),
    }
    if any(evaluation.has_candidates for evaluation in models.values()):
        charts["Precision and recall"] = chart_of_precision(models)
    return charts


def chart_of_thresholds(models: Mapping[str, Evaluation]) -> "Figure":
    """Mean AP of each model against the IoU threshold."""
    figure, axes = _chart("IoU threshold", "AP = TP / (TP + FP + FN)")
    for colour, (name, evaluation) in _coloured(models):
        ap = _ap(evaluation.overall())
        axes.plot(DSB_THRESHOLDS, ap, marker="o", markersize=4, color=colour, label=name)
    axes.set(ylim=(0, 1))
    axes.legend(loc="lower left")
    return figure


def chart_of_images(models: Mapping[str, Evaluation]) -> "Figure":
    """DSB scores of the images of each model, from best to worst."""
    figure, axes = _chart("part of the images", "DSB score at least")
    for colour, (name, evaluation) in _coloured(models):
        falling = np.sort(evaluation.values("dsb_score"))[::-1]
        part = np.linspace(0, 1, len(falling) + 1)
        label = f"{name} {falling.mean():.3f}"
        axes.stairs(falling, part, baseline=None, color=colour, linewidth=1.5, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower left", title="mean")
    return figure


def chart_of_errors(models: Mapping[str, Evaluation]) -> "Figure":
    """Errors of each type per hundred true nuclei."""
    figure, axes = _chart("", "for 100 true nuclei")
    width = 0.8 / len(models)
    for index, (colour, (name, evaluation)) in enumerate(_coloured(models)):
        overall = evaluation.overall()
        heights = [100 * overall[error] / max(overall["n_true"], 1) for error in ERRORS]
        places = np.arange(len(ERRORS)) + (index - (len(models) - 1) / 2) * width
        bars = axes.bar(places, heights, width, color=colour, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(ERRORS)), ERRORS)
    axes.legend(loc="upper right")
    return figure


def chart_of_sizes(models: Mapping[str, Evaluation]) -> "Figure":
    """Recall at IoU 0.5 (solid lines) and 0.75 (dashed) by area of the true nuclei."""
    figure, axes = _chart("area of the true nucleus", "recall")
    for colour, (name, evaluation) in _coloured(models):
        sizes = evaluation.by_size()
        for score, style, label in (("recall_0.50", "-", name), ("recall_0.75", "--", None)):
            recall = [np.nan if row[score] is None else row[score] for row in sizes.values()]
            axes.plot(range(len(sizes)), recall, style, marker="o", color=colour, label=label)
    counts = [f"{size}\n({row['n_true']:.0f})" for size, row in sizes.items()]
    axes.set_xticks(range(len(counts)), counts, fontsize=8)
    axes.set(ylim=(0, 1))
    axes.legend(loc="lower right", title="IoU .50, broken .75")
    return figure


def scatter(pairs: Sequence[tuple[float, float]], x: str, y: str) -> "Figure":
    """Scores of the same images by two models, a dot for each; above the line the second is better.

    Args:
        pairs: both scores of each image.
        x, y: names of the axes.
    """
    figure, axes = _chart(literal(x), literal(y))
    axes.plot(*zip(*pairs, strict=True), ".", color=PALETTE[0], alpha=0.6)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def chart_of_counts(models: Mapping[str, Evaluation]) -> "Figure":
    """Predicted against true number of nuclei, a dot for each image."""
    figure, axes = _chart("true nuclei of an image", "nuclei found")
    largest = 1.0
    for colour, (name, evaluation) in _coloured(models):
        true, found = evaluation.values("n_true"), evaluation.values("n_predicted")
        largest = max(largest, true.max(), found.max())
        axes.plot(true, found, ".", color=colour, alpha=0.6, label=name)
    axes.plot([0, largest], [0, largest], color="black", linewidth=0.8)
    axes.set_xscale("symlog")
    axes.set_yscale("symlog")
    axes.legend(loc="upper left")
    return figure


def chart_of_precision(models: Mapping[str, Evaluation]) -> "Figure":
    """COCO's interpolated precision of masks against recall, for models with candidates."""
    figure, axes = _chart("recall", "precision (masks)")
    for colour, (name, evaluation) in _coloured(models):
        if not evaluation.has_candidates:
            continue
        curves = precisions([image.detections["mask"] for image in evaluation.images])
        for index, style in PR_THRESHOLDS.items():
            label = f"{name}, IoU {THRESHOLDS[index]:.2f}"
            axes.plot(RECALLS, curves[index], style, color=colour, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    return figure


def error_picture(frame: Frame, truth: Labels, predicted: Labels) -> NDArray[np.uint8]:
    """The frame with each nucleus in the colour of its result (`RESULTS`); errors are filled.

    It shows the predicted nuclei, and the true ones that were missed.

    Args:
        frame: the frame.
        truth: integer [H, W], 0 is background.
        predicted: integer [H, W], 0 is background.

    Returns:
        uint8 RGB, with the size of `nuclei.formats.overlay.overlay`.

    Raises:
        InvalidData: the two cannot be compared.
    """
    overlap = Overlap.of(truth, predicted)
    picture = enlarged(frame)
    line_px = outline_px(picture)
    shown = {
        "right": ~(overlap.extra | overlap.fragment | overlap.merging),
        "extra": overlap.extra,
        "split": overlap.fragment & ~overlap.merging,
        "merged": overlap.merging,
    }
    missed = np.where(np.isin(truth, overlap.true_labels[overlap.missed]), truth, 0)
    _colour(picture, missed, "missed", line_px)
    for name, chosen in shown.items():
        kept = np.isin(predicted, overlap.predicted_labels[chosen])
        _colour(picture, np.where(kept, predicted, 0), name, line_px)
    return picture


def outline_px(picture: NDArray[np.uint8]) -> int:
    """Width of an outline that is visible when the whole picture is about 8 cm wide."""
    return max(2, int(max(picture.shape)) // OUTLINES_PER_SIDE)


def _colour(picture: NDArray[np.uint8], labels: Labels, result: str, line_px: int) -> None:
    """Outline nuclei, and fill them unless they are right."""
    colour = np.array(RESULTS[result])
    if result != "right":
        times = len(picture) // len(labels)
        inside = (labels != 0).repeat(times, axis=0).repeat(times, axis=1)
        picture[inside] = (picture[inside] * (1 - FILL) + colour * FILL).astype(np.uint8)
    draw_outlines(picture, labels, [colour.tolist()], line_px)


def literal(text: str) -> str:
    """A text that matplotlib shows as it is: no mathematics, and no name that legends leave out."""
    shown = printable(text, keep="\n").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _ap(scores: Mapping[str, float]) -> list[float]:
    return [scores[f"ap_{threshold:.2f}"] for threshold in DSB_THRESHOLDS]


def _coloured(models: Mapping[str, Evaluation]) -> list[tuple[str, tuple[str, Evaluation]]]:
    """The colour of each model, its name as matplotlib shows it, and its evaluation."""
    return [
        (PALETTE[index % len(PALETTE)], (literal(name), evaluation))
        for index, (name, evaluation) in enumerate(models.items())
    ]


def _chart(x: str, y: str) -> "tuple[Figure, Any]":
    figure, axes = _figure(5.5, 3.8)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _figure(width_in: float, height_in: float) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots()


def _pictures(image: PicturedImage) -> tuple[NDArray[np.uint8], ...]:
    frame = image.frame
    right = (image.truth != 0) & (image.predicted != 0)
    difference = stretched(frame) // 3
    difference[right] += np.array((0, 110, 0), np.uint8)
    difference[(image.predicted != 0) & ~right] += np.array((160, 0, 0), np.uint8)
    difference[(image.truth != 0) & ~right] += np.array((0, 40, 160), np.uint8)
    return (
        stretched(frame),
        overlay(frame, image.truth),
        overlay(frame, image.predicted),
        difference,
    )
