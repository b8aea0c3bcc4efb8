"""Scores of many predicted label images against the truth."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, repeat
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from nuclei.errors import InvalidData
from nuclei.evaluation.coco import Candidates, Detections, ap_interval, coco_scores
from nuclei.evaluation.metrics import Labels, Overlap, scores_of
from nuclei.evaluation.statistics import Interval, mean_interval

ERRORS = ("missed", "extra", "merged", "split")
COUNTS = ("n_true", "n_predicted", *ERRORS)
TABLE_ROWS = {
    "n_true": "nuclei",
    "n_predicted": "nuclei found",
    "dsb_score": "DSB score",
    "ap_0.50": "AP@.50",
    "ap_0.70": "AP@.70",
    "ap_0.75": "AP@.75",
    "ap_0.90": "AP@.90",
    "f1_0.50": "F1@.50",
    "precision_0.50": "precision@.50",
    "recall_0.50": "recall@.50",
    "pq": "PQ",
    "mean_iou": "mean IoU",
    "dice": "Dice",
    "boundary_f1": "boundary F1",
    "pixel_accuracy": "pixel accuracy",
    "count_error": "count error",
    "missed": "missed",
    "extra": "extra",
    "merged": "merged",
    "split": "split",
}
SHOWN_MEANS = tuple(name for name in TABLE_ROWS if name not in COUNTS)
OVERALL = "overall"
# Areas in pixels at which the next size begins; a half, a quarter, a tenth of nuclei are above.
SIZE_LIMITS_PX = (100, 300, 1000)


@dataclass(frozen=True, eq=False)
class Matches:
    """How well the single nuclei of one image fit.

    Attributes:
        true_area: int64 [n_true], pixels.
        true_iou: float64 [n_true], of the match above 0.5; 0 without one.
        predicted_area: int64 [n_predicted], pixels.
        predicted_iou: float64 [n_predicted].
    """

    true_area: NDArray[np.int64]
    true_iou: NDArray[np.float64]
    predicted_area: NDArray[np.int64]
    predicted_iou: NDArray[np.float64]

    @classmethod
    def of(cls, overlap: Overlap) -> "Matches":
        iou = np.where(overlap.iou > 0.5, overlap.iou, 0)
        return cls(
            *(overlap.true_area, iou.max(axis=1, initial=0)),
            *(overlap.predicted_area, iou.max(axis=0, initial=0)),
        )


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of one image.

    Attributes:
        name: of the image.
        modality: for example `histology`.
        scores: by name, as `nuclei.evaluation.metrics.scores_of` gives them.
        matches: nucleus by nucleus.
        detections: of masks and of boxes, by these names; empty without candidates.
        source: name of its data set.
    """

    name: str
    modality: str
    scores: dict[str, float]
    matches: Matches
    detections: Mapping[str, Detections]
    source: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        modality: str,
        truth: Labels,
        predicted: Labels,
        candidates: Candidates | None = None,
        source: str = "",
    ) -> "ImageScores":
        """Score one prediction.

        Args:
            name, modality, source: of the image.
            truth: integer [H, W], 0 is background.
            predicted: integer [H, W], 0 is background.
            candidates: what COCO's scores look at: the nuclei with their scores, those too that
                were too doubtful to be predicted; None leaves these scores out.

        Raises:
            InvalidData: the two cannot be compared; the message names the image.
        """
        try:
            overlap = Overlap.of(truth, predicted)
            detections = {} if candidates is None else _detections(truth, candidates)
        except InvalidData as error:
            raise InvalidData(f"{name}: {error}") from error
        return cls(name, modality, scores_of(overlap), Matches.of(overlap), detections, source)


def _detections(truth: Labels, candidates: Candidates) -> dict[str, Detections]:
    return {
        "mask": Detections.of_masks(truth, candidates),
        "box": Detections.of_boxes(truth, candidates),
    }


class Annotated(Protocol):
    """An image with its truth, as `training.data.dataset.Sample` has it."""

    @property
    def id(self) -> str: ...

    @property
    def modality(self) -> str: ...

    @property
    def labels(self) -> Labels:
        """Integer [H, W], 0 is background."""
        ...

    @property
    def source(self) -> str:
        """Name of its data set."""
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of a set of images: means over images, sums of counts of nuclei and errors.

    Attributes:
        images: at least one.
    """

    images: tuple[ImageScores, ...]

    @classmethod
    def of(
        cls,
        samples: Sequence[Annotated],
        predicted: Iterable[Labels],
        candidates: Iterable[Candidates | None] | None = None,
    ) -> Self:
        """Score the predictions for some images.

        Args:
            samples: the images with their truth, at least one.
            predicted: for each, integer [H, W], 0 is background.
            candidates: for each, what COCO's scores look at; None leaves these scores out.

        Raises:
            InvalidData: a prediction does not fit its image, which is named.
        """
        columns = predicted, candidates or repeat(None, len(samples))
        return cls(
            tuple(
                ImageScores.of(
                    *(sample.id, sample.modality, sample.labels, labels, looked_at),
                    source=sample.source,
                )
                for sample, labels, looked_at in zip(samples, *columns, strict=True)
            )
        )

    def __post_init__(self) -> None:
        if not self.images:
            raise InvalidData("there is no image to score; expected at least one")

    def overall(self) -> dict[str, float]:
        """Every score, mean over all images; counts of nuclei and errors are summed."""
        return _mean(self.images)

    def values(self, score: str, modality: str = OVERALL) -> NDArray[np.float64]:
        """One score of every image, or of every image of a modality, float64 [N]."""
        chosen = (image for image in self.images if modality in (OVERALL, image.modality))
        return np.array([image.scores[score] for image in chosen], np.float64)

    def interval(self, score: str, modality: str = OVERALL) -> Interval:
        """95 % interval of the mean of a score over images (`nuclei.evaluation.statistics`)."""
        return mean_interval(self.values(score, modality))

    def by_modality(self) -> dict[str, dict[str, float]]:
        """The same for the images of each modality, by modality."""
        modalities = sorted({image.modality for image in self.images})
        return {
            modality: _mean([image for image in self.images if image.modality == modality])
            for modality in modalities
        }

    def by_source(self) -> "dict[str, Evaluation]":
        """That of the images of each data set, by its name."""
        sources = sorted({image.source for image in self.images})
        return {
            source: Evaluation(tuple(image for image in self.images if image.source == source))
            for source in sources
        }

    def by_size(self) -> dict[str, dict[str, float | None]]:
        """Recall of true nuclei and precision of predicted ones by their area, over all images.

        Returns:
            by size (`under 100 px`): `n_true`, `n_predicted`, `recall_0.50`, `recall_0.75`,
            `precision_0.50`, and `iou`, the mean over the matched true nuclei; None where there is
            nothing to divide by.
        """
        matches = [image.matches for image in self.images]
        true_area, true_iou = (
            np.concatenate([getattr(one, name) for one in matches])
            for name in ("true_area", "true_iou")
        )
        predicted_area, predicted_iou = (
            np.concatenate([getattr(one, name) for one in matches])
            for name in ("predicted_area", "predicted_iou")
        )
        limits = (0, *SIZE_LIMITS_PX, np.inf)
        sizes = {}
        for lowest, next_lowest in pairwise(limits):
            true = true_iou[(lowest <= true_area) & (true_area < next_lowest)]
            predicted = predicted_iou[(lowest <= predicted_area) & (predicted_area < next_lowest)]
            sizes[_size_name(lowest, next_lowest)] = {
                "n_true": float(len(true)),
                "n_predicted": float(len(predicted)),
                "recall_0.50": _mean_of(true > 0.5),
                "recall_0.75": _mean_of(true > 0.75),
                "precision_0.50": _mean_of(predicted > 0.5),
                "iou": _mean_of(true[true > 0.5]),
            }
        return sizes

    @property
    def has_candidates(self) -> bool:
        """Whether COCO's scores are known."""
        return all(image.detections for image in self.images)

    @cached_property
    def coco(self) -> dict[str, float | None]:
        """COCO's scores of masks and boxes (`mask_ap`, `box_ar_small`); empty without candidates.

        None for a size that no true nucleus has.
        """
        return _coco(self.images) if self.has_candidates else {}

    @cached_property
    def coco_by_modality(self) -> dict[str, dict[str, float | None]]:
        """The same for the images of each modality, by modality; empty without candidates."""
        if not self.has_candidates:
            return {}
        return {
            modality: _coco([image for image in self.images if image.modality == modality])
            for modality in self.by_modality()
        }

    @cached_property
    def coco_intervals(self) -> dict[str, Interval]:
        """95 % intervals of `mask_ap` and `box_ap`; empty without candidates or true nuclei."""
        if self.coco.get("mask_ap") is None:
            return {}
        return {
            f"{what}_ap": ap_interval([image.detections[what] for image in self.images])
            for what in ("mask", "box")
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return {
            OVERALL: self.overall(),
            "interval": {score: self.interval(score) for score in SHOWN_MEANS},
            "by_modality": self.by_modality(),
            "by_size": self.by_size(),
            "coco": self.coco,
            "coco_by_modality": self.coco_by_modality,
            "coco_interval": self.coco_intervals,
            "images": [
                {
                    "name": image.name,
                    "modality": image.modality,
                    "source": image.source,
                    **image.scores,
                }
                for image in self.images
            ],
        }

    def table(self, title: str) -> Table:
        """One line per score, one column per modality, one for all and one for its interval.

        A score is the mean over images; nuclei and errors are counted.
        """
        groups = {**self.by_modality(), OVERALL: self.overall()}
        table = Table(title=title)
        table.add_column("")
        for group in (*groups, "95 %"):
            table.add_column(group, justify="right")
        images = [len(self.values("n_true", group)) for group in groups]
        table.add_row("images", *map(str, images))
        for name, heading in TABLE_ROWS.items():
            digits = 0 if name in COUNTS else 3
            interval = "" if name in COUNTS else shown_interval(self.interval(name))
            values = (f"{scores[name]:.{digits}f}" for scores in groups.values())
            table.add_row(heading, *values, interval)
        return table


def shown_interval(interval: Interval) -> str:
    low, high = interval
    return f"{low:.2f}\N{EN DASH}{high:.2f}"


def _coco(images: Sequence[ImageScores]) -> dict[str, float | None]:
    scores: dict[str, float] = {}
    for what in ("mask", "box"):
        found = coco_scores([image.detections[what] for image in images])
        scores |= {f"{what}_{name}": value for name, value in found.items()}
    return {name: None if np.isnan(value) else value for name, value in scores.items()}


def _size_name(lowest: float, next_lowest: float) -> str:
    if lowest == 0:
        return f"under {next_lowest} px"
    return f"{lowest} px and more" if next_lowest == np.inf else f"{lowest} to {next_lowest} px"


def _mean_of(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean(images: Iterable[ImageScores]) -> dict[str, float]:
    scores = [image.scores for image in images]
    return {
        name: float((np.sum if name in COUNTS else np.mean)([s[name] for s in scores]))
        for name in scores[0]
    }
