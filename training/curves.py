"""The learning curves of a training run."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from nuclei.evaluation.charts import literal


def learning_curves(history: Sequence[dict[str, float]]) -> Figure:
    """Training loss, and validation scores overall and per modality, against the step.

    A training that was not validated has the loss alone.
    """
    names = [name for name in history[-1] if name.startswith("val_dsb_score")]
    figure = Figure(figsize=(11 if names else 5.5, 4), layout="constrained")
    left, *rest = figure.subplots(1, 2 if names else 1, squeeze=False)[0]
    steps = [point["step"] for point in history]
    left.plot(steps, [point["train_loss"] for point in history], color="black")
    left.set(xlabel="step", ylabel="training loss", title="Loss")
    for right in rest:
        for name in names:
            overall = name == "val_dsb_score"
            style = {"color": "black", "linewidth": 2} if overall else {}
            label = "overall" if overall else literal(name.partition("/")[2])
            right.plot(steps, [point[name] for point in history], label=label, **style)
        right.set(xlabel="step", ylabel="DSB score", ylim=(0, 1), title="Validation")
        right.legend(loc="lower right")
    for axes in (left, *rest):
        axes.grid(alpha=0.3)
    return figure
