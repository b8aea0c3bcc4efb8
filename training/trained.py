"""Networks that finished trainings left in their folders, to be joined into one model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nuclei.errors import InvalidData
from training.job import CHECKPOINT_FILE, Recipe
from training.optimisation import BEST_FILE, SCORE, Progress, Report, Validate


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


def trained_network(recipe: Recipe, folder: Path) -> nn.Module:
    """The best network of a training, in evaluation mode, on the CPU.

    Raises:
        InvalidData: it has none yet.
    """
    network = recipe.build()
    try:
        weights = torch.load(folder / BEST_FILE, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidData(
            f"{folder} holds no weights yet ({error.strerror}); let its training go on"
        ) from error
    network.load_state_dict(weights)
    return network.eval()


def joined_progress(
    network: nn.Module, folders: Sequence[Path], validate: Validate, report: Report
) -> Progress:
    """Score a network joined of others, as after the steps and the time that those took."""
    before = [_progress(folder) for folder in folders]
    step = sum(progress.best_step for progress in before)
    scores = validate(network)
    report(step, scores)
    return Progress(step, scores[SCORE], step, sum(progress.seconds for progress in before))


def _progress(folder: Path) -> Progress:
    state = torch.load(folder / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
    return Progress(**state["progress"])
