"""Leave-one-source-out: how a recipe does on images of laboratories that it has not learned from.

A random split tells how a network does on more images of the laboratories that it learned from;
what users send is of others. So the recipe is trained again without each source in turn, and scored
on that source.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nuclei.console import messages
from nuclei.errors import InvalidData
from nuclei.evaluation.left_out import LeftOut
from nuclei.evaluation.scores import Evaluation
from nuclei.evaluation.unseen import Trained, image_digest, unseen
from nuclei.formats.png import encode_png
from nuclei.inference.contract import Contract
from nuclei.postprocessing.accumulation import Accumulator
from training.data.dataset import Sample
from training.hardware import FP32
from training.ranks import Rank
from training.tuning import Tuner, labelled_all, predict_all

if TYPE_CHECKING:
    from training.job import LearnedRecipe, Recipe

FOLDS_FOLDER = "folds"
# What was found in each left-out image, as label images, of a training.
LABELS_FOLDER = "left_out"
# Of a source, for tuning: more make it slower, and hardly better.
TUNED_IMAGES = 25
FIGURES = ("dsb_score", "f1_0.50", "boundary_f1")


@dataclass(frozen=True, eq=False)
class Fold:
    """A network that learned nothing of some sources, and its answers to their images.

    Attributes:
        sources: that were left out.
        samples: images of theirs.
        answers: to each of them.
    """

    sources: frozenset[str]
    samples: Sequence[Sample]
    answers: Sequence[Accumulator]


def dealt(samples: Sequence[Sample], learned: frozenset[str], n_folds: int) -> list[frozenset[str]]:
    """The sources that each fold leaves out.

    Sources of which the network has seen images before are in none. The largest are dealt first,
    each to the fold with the fewest images.

    Args:
        samples: of all sources.
        learned: names of the images that the network was trained on before.
        n_folds: at most so many.

    Raises:
        InvalidData: there are fewer than two sources, or none is new to the network.
    """
    images = Counter(sample.source for sample in samples)
    known = {sample.source for sample in samples if sample.id in learned}
    new = [name for name, _ in images.most_common() if name not in known]
    if len(images) < 2 or not new:
        raise InvalidData(
            f"{len(images)} sources were given ({', '.join(sorted(images))}), and {len(new)} of "
            "them are new to the network that training starts from; folds leave out whole sources: "
            "expected two or more, at least one of them new"
        )
    folds: list[list[str]] = [[] for _ in range(min(n_folds, len(new)))]
    for source in new:
        smallest = min(folds, key=lambda fold: sum(images[one] for one in fold))
        smallest.append(source)
    return [frozenset(fold) for fold in folds]


def learned_before(samples: Sequence[Sample], trained: Trained) -> frozenset[str]:
    """Names of the images that a network has been trained on, as far as its files tell.

    Args:
        samples: all of each source: a network that tells only what it held out of a source is
            known by these to have learned from the rest.
        trained: what it tells.
    """
    by_source: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_source[sample.source].append(sample)
    new = {one.id for own in by_source.values() for one in unseen(own, [trained])}
    return frozenset(sample.id for sample in samples) - new


def train_folds(
    recipe: "LearnedRecipe",
    network: nn.Module,
    samples: Sequence[Sample],
    learned: frozenset[str],
    folder: Path,
    rank: Rank,
) -> dict[frozenset[str], nn.Module]:
    """Train a network for each fold; continues where a killed run stopped.

    Args:
        recipe: of the training.
        network: that was trained on all; it stands for a fold whose images change no network.
        samples: all that the recipe may learn from.
        learned: as of `dealt`.
        folder: of the training; each fold gets one in it.
        rank: as of `training.optimisation.fit`.

    Returns:
        The networks on the CPU, by the sources that they have not seen.
    """
    networks = {}
    if recipe.fold_steps is not None:
        schedule = replace(recipe.schedule, steps=recipe.fold_steps, minutes=None)
        recipe = replace(recipe, schedule=schedule)
    folds = dealt(samples, learned, recipe.folds)
    for number, sources in enumerate(folds, start=1):
        if not any(recipe.learns_from(one) for one in samples if one.source in sources):
            networks[sources] = network
            continue
        if rank.leads:
            messages().print(
                f"fold {number} of {len(folds)}: training without {', '.join(sorted(sources))}",
                soft_wrap=True,
            )
        seen = [sample for sample in samples if sample.source not in sources]
        place = folder / FOLDS_FOLDER / "+".join(sorted(sources))
        if rank.leads:
            place.mkdir(parents=True, exist_ok=True)
        networks[sources], _ = recipe.fit(seen, place, None, lambda *_: None, rank)
    return networks


def answered(
    recipe: "Recipe",
    networks: Mapping[frozenset[str], nn.Module],
    samples: Sequence[Sample],
) -> list[Fold]:
    """What each network answers to the images of the sources that it has not seen."""
    contract = recipe.contract()
    folds = []
    for sources, network in networks.items():
        engine = recipe.engine(network.to(recipe.schedule.device), contract, FP32)
        own = [sample for sample in samples if sample.source in sources]
        folds.append(Fold(sources, own, predict_all(own, engine, engine.served, tta=False)))
        network.cpu()
    return folds


class LeftOutTuning:
    """Post-processing tuned and scored on sources that no network of it has seen."""

    def __init__(
        self,
        recipe: "Recipe",
        folds: Sequence[Fold],
        validation: Sequence[Sample],
        answers: Sequence[Accumulator],
    ) -> None:
        """Prepare the search.

        Args:
            recipe: of the training.
            folds: what was answered to left-out sources.
            validation: held-out images; those of sources that could not be left out are used.
            answers: of the network that was trained on all of the rest, to each of these.
        """
        contract = recipe.contract()
        self._folds = folds
        rng = np.random.default_rng(recipe.schedule.seed)
        chosen = [
            (fold.samples[index], fold.answers[index])
            for fold in folds
            for source in sorted(fold.sources)
            for index in _some([one.source == source for one in fold.samples], rng)
        ]
        left = frozenset().union(*(fold.sources for fold in folds))
        held_out = zip(validation, answers, strict=True)
        pairs = [*chosen, *((one, answer) for one, answer in held_out if one.source not in left)]
        self._sources = np.array([sample.source for sample, _ in pairs])
        samples, answers = zip(*pairs, strict=True)
        self._tuner = Tuner(contract, samples, answers)

    def best(self) -> Contract:
        """The contract with the best parameters for all of them."""
        return self._tuner.best(np.arange(len(self._sources)))

    @cached_property
    def evaluation(self) -> Evaluation:
        """The scores of each left-out source, with parameters that were tuned without it."""
        return Evaluation.of(self._samples, self._labels)

    def write_labels(self, folder: Path) -> None:
        """Write what was found as ID.png, which `nuclei compare` compares with a model."""
        folder.mkdir(exist_ok=True)
        for sample, labels in zip(self._samples, self._labels, strict=True):
            (folder / f"{sample.id}.png").write_bytes(encode_png(labels.astype(np.uint16)))

    @cached_property
    def _samples(self) -> list[Sample]:
        return [sample for fold in self._folds for sample in fold.samples]

    @cached_property
    def _labels(self) -> list[NDArray[np.uint32]]:
        labels: list[NDArray[np.uint32]] = []
        for fold in self._folds:
            others = np.flatnonzero(~np.isin(self._sources, sorted(fold.sources)))
            tuned = self._tuner.best(others if len(others) else np.arange(len(self._sources)))
            labels += labelled_all(fold.samples, fold.answers, tuned)
        return labels

    def figures(self) -> dict[str, float]:
        """Mean scores of all left-out images, and of each source."""
        overall = self.evaluation.overall()
        figures = {name: overall[name] for name in FIGURES}
        for source, evaluation in self.evaluation.by_source().items():
            scores = evaluation.overall()
            figures |= {f"{name}/{source}": scores[name] for name in FIGURES}
        return figures

    @property
    def scores(self) -> LeftOut:
        """The score of each left-out image, by which gates compare."""
        pairs = zip(self._samples, self.evaluation.images, strict=True)
        return LeftOut(
            {image_digest(sample.pixels): image.scores["dsb_score"] for sample, image in pairs}
        )


def _some(mask: Sequence[bool], rng: np.random.Generator) -> Sequence[int]:
    indices = np.flatnonzero(mask)
    return sorted(rng.permutation(indices)[:TUNED_IMAGES].tolist())
