"""Pictures of a training run that a person wants to look at."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nuclei.evaluation import Comparison, Evaluation
from nuclei.images import frame_from_array
from training.dataset import Sample


def learning_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Training loss, and validation scores overall and per kind, against the step."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [point["step"] for point in history]
    left.plot(steps, [point["train_loss"] for point in history], color="black")
    left.set(xlabel="step", ylabel="training loss", title="Loss")
    names = [name for name in history[-1] if name.startswith("val_dsb_score")]
    for name in names:
        overall = name == "val_dsb_score"
        style = {"color": "black", "linewidth": 2} if overall else {}
        label = "overall" if overall else name.partition("/")[2]
        right.plot(steps, [point[name] for point in history], label=label, **style)
    right.set(xlabel="step", ylabel="DSB score", ylim=(0, 1), title="Validation")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def telling_examples(
    samples: Sequence[Sample], predicted: Sequence[NDArray[np.uint32]], evaluation: Evaluation
) -> list[Comparison]:
    """The worst, the median and the best image of each kind."""
    comparisons = []
    order = np.argsort([image.scores["dsb_score"] for image in evaluation.images])
    for kind in sorted({sample.kind for sample in samples}):
        ranked = [int(index) for index in order if samples[index].kind == kind]
        chosen = dict.fromkeys([ranked[0], ranked[len(ranked) // 2], ranked[-1]])
        for index in chosen:
            sample, score = samples[index], evaluation.images[index].scores["dsb_score"]
            title = f"{kind}, DSB {score:.2f}\n{sample.id[:12]}"
            frame = frame_from_array(sample.pixels)
            comparisons.append(Comparison(title, frame, sample.labels, predicted[index]))
    return comparisons
