"""Networks that finished trainings left in their folders, to be joined into one model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from nuclei.errors import InvalidData
from training.job import Recipe
from training.optimisation import SCORE, Progress, Report, Validate, finished_progress


def shared_options(first: Recipe, second: Recipe, data: Path, device: str) -> dict[str, Any]:
    """The fields that all recipes have, of a model joined of two trainings.

    Args:
        first, second: of the trainings.
        data: the images both were trained on.
        device: `cuda` or `cpu`.

    Raises:
        InvalidData: the two held out different images.
    """
    splits = [(one.validation_fraction, one.schedule.seed) for one in (first, second)]
    if splits[0] != splits[1]:
        raise InvalidData(
            f"the trainings of {first.family} and {second.family} held out different images "
            f"(fraction and seed {splits[0]} and {splits[1]}), so none may be new to both; train "
            "them with the same"
        )
    return {
        "data": data,
        "validation_fraction": first.validation_fraction,
        "pixel_size_um": first.pixel_size_um,
        "schedule": replace(first.schedule, device=device),
    }


def joined_progress(
    network: nn.Module, folders: Sequence[Path], validate: Validate, report: Report
) -> Progress:
    """Score a network joined of others, as after the steps and the time that those took."""
    before = [finished_progress(folder) for folder in folders]
    step = sum(progress.best_step for progress in before)
    scores = validate(network)
    report(step, scores)
    return Progress(step, scores[SCORE], step, sum(progress.seconds for progress in before))
