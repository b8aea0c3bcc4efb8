"""Compare models on the same images: tables of scores, differences, errors and costs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from nuclei.errors import InvalidData
from nuclei.evaluation.scores import COUNTS, ERRORS, TABLE_ROWS, Evaluation, shown_interval
from nuclei.evaluation.statistics import PairedTest, paired_test

if TYPE_CHECKING:
    from nuclei.evaluation.timing import Cost

UNKNOWN = "\N{EN DASH}"
LESS_IS_BETTER = ("count_error", *ERRORS)
TESTED = "dsb_score"
BY_SOURCE = {"dsb_score": "DSB score", "f1_0.50": "F1@.50", "boundary_f1": "boundary F1"}
AP_SHOWN = ("ap_0.50", "ap_0.70", "ap_0.90")
COCO_ROWS = {
    "ap": "AP",
    "ap_0.50": "AP@.50",
    "ap_0.75": "AP@.75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar": "AR",
    "ar_small": "AR small",
    "ar_medium": "AR medium",
    "ar_large": "AR large",
}
COST_ROWS = {
    "parameters": "parameters",
    "training_minutes": "training, minutes",
    "training_gpu_mb": "training, GPU memory, MB",
    "ms_per_image": "ms per image, median",
    "ms_per_megapixel": "ms per megapixel",
    "memory_mb": "peak memory, MB",
}


@dataclass(frozen=True)
class Row:
    """One line of a grid.

    Attributes:
        name: heading of the line.
        cells: one for each column after the first.
        best: indices of the best cells; empty where none is better.
    """

    name: str
    cells: tuple[str, ...]
    best: tuple[int, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table to print.

    Attributes:
        title: of the table.
        note: an explanation below the title.
        columns: headings, without the first column's.
        rows: its lines.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def table(self) -> Table:
        """As a table for a terminal."""
        table = Table(title=self.title, caption=self.note, title_justify="left")
        table.caption_justify = "left"
        table.add_column("")
        for column in self.columns:
            table.add_column(column, justify="right")
        for row in self.rows:
            cells = (
                Text(cell, "bold" if index in row.best else "")
                for index, cell in enumerate(row.cells)
            )
            table.add_row(row.name, *cells)
        return table


@dataclass(frozen=True, eq=False)
class Entry:
    """One model, or one folder of label images.

    Attributes:
        name: for tables and charts.
        evaluation: its scores.
        cost: None for label images.
    """

    name: str
    evaluation: Evaluation
    cost: "Cost | None" = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Entries evaluated on the same images.

    Attributes:
        entries: at least one, with different names.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidData(f"{twice} is compared with itself; name each model once")
        first, *others = self.entries
        images = [image.name for image in first.evaluation.images]
        for other in others:
            if [image.name for image in other.evaluation.images] != images:
                raise InvalidData(
                    f"{first.name} and {other.name} were evaluated on other images; expected the "
                    "same ones in the same order"
                )

    def tests(self) -> dict[tuple[str, str], PairedTest]:
        """Paired tests of the DSB score for every two entries, by their names."""
        return {
            (a.name, b.name): paired_test(a.evaluation.values(TESTED), b.evaluation.values(TESTED))
            for a, b in combinations(self.entries, 2)
        }

    def grids(self) -> list[Grid]:
        """All tables, the most important first; empty ones are left out."""
        return [
            self._scores(),
            self._modalities(),
            self._ap_of_modalities(),
            *([self._sources()] if len(self.evaluations[0].by_source()) > 1 else []),
            *([self._tests()] if len(self.entries) > 1 else []),
            self._errors(),
            *self.details(),
        ]

    def details(self) -> list[Grid]:
        """The tables that are not in `Evaluation.table`: by size, COCO's, costs."""
        with_coco = any(evaluation.coco for evaluation in self.evaluations)
        with_cost = any(entry.cost for entry in self.entries)
        return [
            self._sizes(),
            *([self._coco("mask"), self._coco("box")] if with_coco else []),
            *([self._costs()] if with_cost else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {
            "models": {
                entry.name: {
                    **entry.evaluation.to_dict(),
                    "cost": None if entry.cost is None else asdict(entry.cost),
                }
                for entry in self.entries
            },
            "tests": [
                {"models": names, "score": TESTED, **asdict(test)}
                for names, test in self.tests().items()
            ],
        }

    @property
    def evaluations(self) -> list[Evaluation]:
        return [entry.evaluation for entry in self.entries]

    def _scores(self) -> Grid:
        overall = [evaluation.overall() for evaluation in self.evaluations]
        rows = []
        for name, heading in TABLE_ROWS.items():
            if name in ERRORS:
                continue
            values = [scores[name] for scores in overall]
            if name in COUNTS:
                rows.append(Row(heading, tuple(f"{value:.0f}" for value in values)))
                continue
            cells = tuple(
                f"{value:.3f} ({shown_interval(evaluation.interval(name))})"
                for value, evaluation in zip(values, self.evaluations, strict=True)
            )
            rows.append(Row(heading, cells, _best(values, name in LESS_IS_BETTER)))
        note = f"Means over {len(self.evaluations[0].images)} images and their 95 % intervals."
        return self._grid("Scores", note, rows)

    def _modalities(self) -> Grid:
        by_modality = [evaluation.by_modality() for evaluation in self.evaluations]
        rows = []
        for modality in by_modality[0]:
            values = [scores[modality]["dsb_score"] for scores in by_modality]
            cells = tuple(
                f"{value:.3f} ({shown_interval(evaluation.interval('dsb_score', modality))})"
                for value, evaluation in zip(values, self.evaluations, strict=True)
            )
            images = len(self.evaluations[0].values("dsb_score", modality))
            rows.append(Row(f"{modality} ({images})", cells, _best(values)))
        return self._grid("DSB score by modality", "Number of images in brackets.", rows)

    def _sources(self) -> Grid:
        of_models = [evaluation.by_source() for evaluation in self.evaluations]
        rows = []
        for source, first in of_models[0].items():
            for name, heading in BY_SOURCE.items():
                values = [parts[source].overall()[name] for parts in of_models]
                cells = tuple(
                    f"{value:.3f} ({shown_interval(parts[source].interval(name))})"
                    for value, parts in zip(values, of_models, strict=True)
                )
                rows.append(Row(f"{source} ({len(first.images)}), {heading}", cells, _best(values)))
        return self._grid("Scores by source", "Number of images in brackets.", rows)

    def _ap_of_modalities(self) -> Grid:
        by_modality = [evaluation.by_modality() for evaluation in self.evaluations]
        rows = []
        for modality in by_modality[0]:
            shown = [[scores[modality][name] for name in AP_SHOWN] for scores in by_modality]
            cells = tuple(" / ".join(f"{value:.3f}" for value in values) for values in shown)
            rows.append(Row(modality, cells))
        note = "TP / (TP + FP + FN), mean over images, as StarDist's authors define it."
        return self._grid("AP@.50 / .70 / .90 by modality", note, rows)

    def _tests(self) -> Grid:
        rows = [
            Row(
                f"{a} \N{MINUS SIGN} {b}",
                (
                    f"{test.difference:+.4f}",
                    f"{test.interval[0]:+.4f} to {test.interval[1]:+.4f}",
                    f"{test.p:.4f}",
                    f"{test.better}",
                    f"{test.worse}",
                ),
            )
            for (a, b), test in self.tests().items()
        ]
        return Grid(
            "Differences of the DSB score",
            "Paired permutation test over images; p is not corrected for several comparisons.",
            ("difference", "95 %", "p", "images better", "worse"),
            tuple(rows),
        )

    def _errors(self) -> Grid:
        overall = [evaluation.overall() for evaluation in self.evaluations]
        rows = [
            Row(
                error,
                tuple(
                    f"{scores[error]:.0f} ({100 * scores[error] / max(scores['n_true'], 1):.1f} %)"
                    for scores in overall
                ),
                _best([scores[error] for scores in overall], less=True),
            )
            for error in ERRORS
        ]
        note = (
            "At IoU 0.5, in brackets per 100 true nuclei. Merged: a predicted nucleus that covers "
            "most of several true ones; split: a true one that covers most of several predicted."
        )
        return self._grid("Errors", note, rows)

    def _sizes(self) -> Grid:
        by_size = [evaluation.by_size() for evaluation in self.evaluations]
        rows = []
        for size, first in by_size[0].items():
            shown = [
                tuple(_digits(scores[size][name]) for name in ("recall_0.50", "precision_0.50"))
                for scores in by_size
            ]
            rows.append(
                Row(
                    f"{size} ({first['n_true']:.0f})",
                    tuple(f"{recall} / {precision}" for recall, precision in shown),
                    _best([scores[size]["recall_0.50"] for scores in by_size]),
                )
            )
        note = (
            "Recall / precision at IoU 0.5, over all images together; true nuclei by their area "
            "(number in brackets), predicted ones by theirs."
        )
        return self._grid("By size of nucleus", note, rows)

    def _coco(self, what: str) -> Grid:
        rows = []
        for name, heading in COCO_ROWS.items():
            score = f"{what}_{name}"
            values = [evaluation.coco.get(score) for evaluation in self.evaluations]
            cells = [_digits(value) for value in values]
            for index, evaluation in enumerate(self.evaluations):
                if score in evaluation.coco_intervals:
                    cells[index] += f" ({shown_interval(evaluation.coco_intervals[score])})"
            rows.append(Row(heading, tuple(cells), _best(values)))
        for modality in self.evaluations[0].by_modality():
            of_modality = [
                evaluation.coco_by_modality.get(modality, {}) for evaluation in self.evaluations
            ]
            values = [scores.get(f"{what}_ap") for scores in of_modality]
            rows.append(Row(f"AP {modality}", tuple(map(_digits, values)), _best(values)))
        note = (
            "Over all candidates with their scores, without a limit on their number. Small: area "
            "below 32² pixels; large: above 96²."
        )
        return self._grid(f"COCO scores of {'masks' if what == 'mask' else 'boxes'}", note, rows)

    def _costs(self) -> Grid:
        costs: list[Mapping[str, float | None]] = [
            {} if entry.cost is None else asdict(entry.cost) for entry in self.entries
        ]
        rows = []
        for name, heading in COST_ROWS.items():
            values = [cost.get(name) for cost in costs]
            cells = (UNKNOWN if value is None else f"{value:,.0f}" for value in values)
            rows.append(Row(heading, tuple(cells), _best(values, less=True)))
        note = (
            "Measured on this machine by onnxruntime in one process for each model, CPU; "
            "parameters and training time as recorded in the model."
        )
        return self._grid("Cost", note, rows)

    def _grid(self, title: str, note: str, rows: Iterable[Row]) -> Grid:
        return Grid(title, note, tuple(entry.name for entry in self.entries), tuple(rows))


def _best(values: Sequence[float | None], less: bool = False) -> tuple[int, ...]:
    """Indices of the best values; none where all are equal."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return ()
    choose: Callable[[list[float]], float] = min if less else max
    best = choose(known)
    return tuple(index for index, value in enumerate(values) if value == best)


def _digits(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"
