"""Several trainings at the same time on one GPU, to use it fully while it is available.

Validation, tuning and export are left for later, because they run on a CPU.
"""

import multiprocessing
import os
import queue
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress as Bar
from rich.progress import TextColumn
from torch import Tensor, nn

from nuclei.console import messages
from nuclei.errors import InvalidData
from training.data.dataset import Sample
from training.families.unet import UNet
from training.folders import writing
from training.job import CHECKPOINT_FILE, OPTIONS_FILE, LearnedRecipe, Recipe, split
from training.optimisation import BEST_FILE, FINISHED_FILE, finish, fit

JOINT = "+"


class _Together(nn.Module):
    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(images) for network in self.networks.values())


@dataclass(frozen=True)
class Together:
    """A `Learner` of several networks on the same crops, because crops cost more than steps.

    Their gradients are clipped together; apart from that they are independent.

    Attributes:
        recipes: by name, with the same schedule and the same targets.
    """

    recipes: Mapping[str, UNet]

    captures_graph = True

    def build(self) -> _Together:
        return _Together({name: recipe.build() for name, recipe in self.recipes.items()})

    def first_weights(self) -> None:
        return None

    def targets(self, labels: NDArray[np.uint16]) -> Tensor:
        return next(iter(self.recipes.values())).targets(labels)

    def loss_of(self, network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        targets = targets.to(images.device, non_blocking=True)
        losses = [
            recipe.loss_of(_Answered(answer), images, targets)
            for recipe, answer in zip(self.recipes.values(), network(images), strict=True)
        ]
        return torch.stack(losses).sum()


class _Answered(nn.Module):
    """Returns an output that was computed before, whatever the images."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self._answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return self._answer


def train_side_by_side(recipes: Mapping[str, Recipe], folder: Path) -> None:
    """Train networks at the same time; each gets a folder with the files that `fit` writes.

    Networks of `training.families.unet` with the same schedule are trained in one process, on the
    same crops; every other network in a process of its own. A finished training is left as it is, a
    killed one is continued.

    Args:
        recipes: of networks that learn, on the same images and split, by the name of the folder
            each gets.
        folder: of the folders; each process writes a log file there.

    Raises:
        InvalidData: data that cannot be used; or a training failed, after all others have ended.
    """
    samples, _ = split(next(iter(recipes.values())))
    groups: dict[Any, dict[str, LearnedRecipe]] = defaultdict(dict)
    for name, recipe in recipes.items():
        assert isinstance(recipe, LearnedRecipe)
        if not (folder / name / FINISHED_FILE).exists():
            shares = isinstance(recipe, UNet) and not recipe.border_weight
            groups[recipe.schedule if shares else name][name] = recipe
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    trainings = {
        JOINT.join(group): context.Process(target=_train, args=(group, samples, folder, reports))
        for group in groups.values()
    }
    for training in trainings.values():
        training.start()
    columns = (*Bar.get_default_columns(), TextColumn("{task.fields[note]}"))
    with Bar(*columns, console=messages()) as bar:
        tasks = {name: bar.add_task(name, total=1.0, note="starts") for name in trainings}
        while any(training.is_alive() for training in trainings.values()):
            with suppress(queue.Empty):
                name, done, note = reports.get(timeout=1)
                bar.update(tasks[name], completed=done, note=note)
                bar.console.print(f"{name}: {note}")
    failed = [name for name, training in trainings.items() if training.exitcode]
    if failed:
        logs = ", ".join(str(folder / f"{name}.log") for name in failed)
        raise InvalidData(f"{', '.join(failed)}: the training failed; see {logs}")


def _train(
    recipes: Mapping[str, LearnedRecipe], samples: Sequence[Sample], folder: Path, reports: Any
) -> None:
    name = JOINT.join(recipes)
    with (folder / f"{name}.log").open("a") as log:
        # What libraries print goes there, too.
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    for own, recipe in recipes.items():
        (folder / own).mkdir(exist_ok=True)
        (folder / own / OPTIONS_FILE).write_text(recipe.to_json())
    (schedule,) = {recipe.schedule for recipe in recipes.values()}
    started = time.monotonic()

    def report(step: int, metrics: dict[str, float]) -> None:
        minutes = (time.monotonic() - started) / 60
        done = minutes / schedule.minutes if schedule.minutes else step / schedule.steps
        reports.put((name, done, f"step {step}  loss {metrics['train_loss']:.3f}"))

    if len(recipes) == 1:
        recipes[name].fit(samples, folder / name, None, report)
        return
    together = Together(cast(Mapping[str, UNet], recipes))
    checkpoint = folder / name / CHECKPOINT_FILE
    network, progress = fit(together, samples, schedule, checkpoint, None, report)
    for own, trained in cast(_Together, network).networks.items():
        torch.save(trained.state_dict(), folder / own / BEST_FILE)
        finish(folder / own, progress, schedule)
