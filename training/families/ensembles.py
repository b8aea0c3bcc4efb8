"""The common part of all ensemble recipes: two trained networks that become one model."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import ClassVar, Self

from torch import nn

from nuclei.errors import InvalidData
from nuclei.evaluation.unseen import Trained
from nuclei.inference.provenance import DataSet, all_of
from training.data.dataset import Sample
from training.job import LearnedRecipe, Recipe
from training.optimisation import (
    SCORE,
    Progress,
    Report,
    Validate,
    best_network,
    finished_progress,
)
from training.ranks import ALONE, Rank


@dataclass(frozen=True, kw_only=True)
class EnsembleRecipe(Recipe):
    """A model made of two networks that are already trained; it learns nothing itself.

    Attributes:
        members: for each member, the function that reads its recipe from the folder of its
            training; that folder is the field with the member's name.
    """

    members: ClassVar[Mapping[str, Callable[[Path], LearnedRecipe]]]

    @classmethod
    def of(cls, data: tuple[Path, ...], folders: Mapping[str, Path], device: str) -> Self:
        """The ensemble of the networks from two trainings.

        Args:
            data: the images both were trained on.
            folders: training folders, by member.
            device: `cuda` or `cpu`.

        Raises:
            InvalidData: a folder holds another training, or the two held out different images.
        """
        first, second = (read(folders[name]) for name, read in cls.members.items())
        splits = [(one.validation_fraction, one.schedule.seed) for one in (first, second)]
        if splits[0] != splits[1]:
            raise InvalidData(
                f"the trainings of {first.family} and {second.family} held out different images "
                f"(fraction and seed {splits[0]} and {splits[1]}), so none may be new to both; "
                "train them with the same"
            )
        if first.trained_before() != second.trained_before():
            raise InvalidData(
                f"the trainings of {first.family} and {second.family} go on from different models, "
                "which held out different images, so none may be new to both; start both from "
                "random weights"
            )
        return cls(
            data=data,
            categories=first.categories,
            validation_fraction=first.validation_fraction,
            pixel_size_um=first.pixel_size_um,
            data_licence=all_of(filter(None, (one.data_licence for one in (first, second)))),
            schedule=replace(first.schedule, device=device),
            **{name: folder.resolve() for name, folder in folders.items()},
        )

    def code_licences(self) -> frozenset[str]:
        return frozenset().union(*(recipe.code_licences() for recipe in self.recipes()))

    def licences_before(self) -> tuple[str, ...]:
        return tuple(one for recipe in self.recipes() for one in recipe.licences_before())

    def data_before(self) -> tuple[DataSet, ...]:
        return tuple(one for recipe in self.recipes() for one in recipe.data_before())

    def trained_before(self) -> Trained:
        return reduce(Trained.after, (recipe.trained_before() for recipe in self.recipes()))

    def held_out_before(self) -> frozenset[str]:
        return frozenset().union(*(recipe.held_out_before() for recipe in self.recipes()))

    @abstractmethod
    def combine(self, networks: Sequence[nn.Module]) -> nn.Module:
        """One module of the members' networks, in the order of `members`."""

    def recipes(self) -> list[LearnedRecipe]:
        return [read(getattr(self, name)) for name, read in self.members.items()]

    def folders(self) -> list[Path]:
        return [getattr(self, name) for name in self.members]

    def check(self) -> None:
        super().check()
        for recipe, folder in zip(self.recipes(), self.folders(), strict=True):
            best_network(recipe, folder)
            finished_progress(folder)

    def build(self) -> nn.Module:
        return self.combine([recipe.build() for recipe in self.recipes()])

    def fit(
        self,
        samples: Sequence[Sample],
        folder: Path,
        validate: Validate,
        report: Report,
        rank: Rank = ALONE,
    ) -> tuple[nn.Module, Progress]:
        """The trained networks; steps and time are summed over both trainings."""
        trainings = zip(self.recipes(), self.folders(), strict=True)
        network = self.combine([best_network(*training) for training in trainings]).eval()
        network.to(self.schedule.device)
        before = [finished_progress(folder) for folder in self.folders()]
        step = sum(progress.best_step for progress in before)
        scores = validate(network)
        report(step, scores)
        seconds = sum(progress.seconds for progress in before)
        return network.cpu(), Progress(step, scores[SCORE], step, seconds)
