"""The accuracy of a version on a named set of images, against that of the champion."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nuclei.console import tracked
from nuclei.errors import InvalidData
from nuclei.evaluation.comparison import TESTED
from nuclei.evaluation.left_out import LeftOut
from nuclei.evaluation.scores import OVERALL, Evaluation
from nuclei.evaluation.scores import Annotated as AnnotatedImage
from nuclei.evaluation.statistics import paired_test
from nuclei.evaluation.unseen import Pixels, image_digest
from nuclei.imaging.images import frame_from_array
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.pipeline import segment
from nuclei.quoting import sentence
from serving.promotion.verdict import Gate

SCORES_FILE = "scores.json"
# A million images.
MAX_SCORES_BYTES = 2**27


class Image(AnnotatedImage, Protocol):
    """An image with its truth, as `training.data.dataset.Sample` has it."""

    @property
    def pixels(self) -> Pixels: ...


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Images that versions are judged by.

    Attributes:
        name: for people.
        fingerprint: SHA-256 over pixels and masks; what tells two sets apart.
        images: at least one.
    """

    name: str
    fingerprint: str
    images: Sequence[Image]

    def __str__(self) -> str:
        return f"{self.name}@sha256:{self.fingerprint}"


def fingerprint_in(evaluation_set: str) -> str:
    """The SHA-256 in the text of an `EvaluationSet`; empty when there is none."""
    return evaluation_set.partition("@sha256:")[2]


class Scores(BaseModel):
    """The scores of one version on one set, as a run keeps them for the next version.

    Attributes:
        evaluation_set: `NAME@sha256:...`.
        digest: of the version's files.
        images: the DSB score of each image, by its name.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    evaluation_set: Annotated[str, Field(max_length=1000)]
    digest: Annotated[str, Field(max_length=128)]
    images: dict[str, Annotated[float, Field(ge=0, le=1)]]

    @classmethod
    def of(
        cls,
        evaluation_set: EvaluationSet,
        digest: str,
        evaluation: Evaluation,
        left_out: LeftOut,
    ) -> "Scores":
        """Those of an evaluation, but for images whose source was left out of a training."""
        images = {image.name: image.scores[TESTED] for image in evaluation.images}
        images |= {
            image.id: left_out.scores[pixels]
            for image in evaluation_set.images
            if (pixels := image_digest(image.pixels)) in left_out.scores
        }
        return cls(evaluation_set=str(evaluation_set), digest=digest, images=images)

    @property
    def fingerprint(self) -> str:
        """Of the set."""
        return fingerprint_in(self.evaluation_set)

    @classmethod
    def from_json(cls, text: bytes) -> "Scores":
        """Read what a run kept; raises InvalidData."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise InvalidData(f"{SCORES_FILE} cannot be used ({sentence(error)})") from None

    def to_json(self) -> str:
        return json.dumps(self.model_dump(), indent=2)


@dataclass(frozen=True)
class Bounds:
    """What accuracy has to reach; all of the DSB score.

    Attributes:
        margin: by how much the mean over all images may be below the champion's.
        modality_margin: the same for the images of one modality, of which there are fewer.
        floor: least mean of every modality.
        floors: least mean of single modalities, by name.
    """

    margin: float = 0.005
    modality_margin: float = 0.02
    floor: float = 0.05
    floors: Mapping[str, float] | None = None

    def floor_of(self, modality: str) -> float:
        """The least mean of a modality."""
        return (self.floors or {}).get(modality, self.floor)


def evaluate(images: Sequence[Image], engine: Engine, served: ServedVersion) -> Evaluation:
    """The scores of a version; raises as the engine does."""
    task = f"Evaluating {served.model} {served.version}"
    frames = (frame_from_array(image.pixels) for image in tracked(images, task))
    found = (asyncio.run(segment(frame, engine, served)) for frame in frames)
    return Evaluation.of(images, (segmentation.labels for segmentation in found))


def floor_gates(images: Sequence[Image], scores: Scores, bounds: Bounds) -> list[Gate]:
    """Whether the mean of every modality reaches its floor."""
    gates = []
    for modality, names in _by_modality(images).items():
        mean, floor = _mean(scores, names), bounds.floor_of(modality)
        passed = mean >= floor
        said = f"{len(names)} images of {modality} have a DSB score of {mean:.3f}"
        end = "" if passed else f", below the floor of {floor:.3f}"
        gates.append(Gate(f"floor.{modality}", mean, f"at least {floor:.3f}", passed, said + end))
    return gates


def accuracy_gates(
    images: Sequence[Image], scores: Scores, champion: Scores, champion_name: str, bounds: Bounds
) -> list[Gate]:
    """Whether the version is not worse than the champion, over all images and by modality.

    It is worse when the 95 % interval of the paired difference lies below zero (bootstrap over the
    images), or when the difference of the means is below the margin.
    """
    everything = [image.id for image in images]
    groups = [("accuracy", OVERALL, everything, bounds.margin)]
    by_modality = _by_modality(images)
    if len(by_modality) > 1:
        groups += [
            (f"accuracy.{modality}", modality, names, bounds.modality_margin)
            for modality, names in by_modality.items()
        ]
    gates = []
    for gate, what, names, margin in groups:
        test = paired_test(_values(scores, names), _values(champion, names))
        low, high = test.interval
        significant = high < 0
        passed = not significant and test.difference >= -margin
        said = (
            f"{what}, {len(names)} images: {_mean(scores, names):.3f} against "
            f"{_mean(champion, names):.3f} of {champion_name}, a difference of "
            f"{test.difference:+.4f} (95 %: {low:+.4f} to {high:+.4f})"
        )
        if not passed:
            said += ": significantly worse" if significant else f": more than {margin} worse"
        bound = f"at least {-margin:+.3f}, and not significantly below 0"
        gates.append(Gate(gate, test.difference, bound, passed, said))
    return gates


def _by_modality(images: Sequence[Image]) -> dict[str, list[str]]:
    """Names of the images of each modality."""
    modalities = sorted({image.modality for image in images})
    return {
        modality: [image.id for image in images if image.modality == modality]
        for modality in modalities
    }


def _values(scores: Scores, names: Sequence[str]) -> NDArray[np.float64]:
    return np.array([scores.images[name] for name in names], np.float64)


def _mean(scores: Scores, names: Sequence[str]) -> float:
    return float(_values(scores, names).mean())
