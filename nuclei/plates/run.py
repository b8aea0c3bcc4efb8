"""A run: all frames of the inputs, each done once, whatever interrupts it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from nuclei.errors import NucleiError
from nuclei.formats import format_named
from nuclei.formats.tables import failed_row, write_frames
from nuclei.plates.heatmap import heat_map
from nuclei.plates.journal import FOLDER, SLIDES, Journal
from nuclei.plates.places import Choice, places
from nuclei.plates.slides import is_slide, slide_of, stitched
from nuclei.plates.sources import (
    TIFF_SUFFIXES,
    Source,
    fingerprint,
    is_always_source,
    named,
    open_source,
)
from nuclei.plates.tables import PLACE, NucleiTable, wells_of, wells_table
from nuclei.plates.work import (
    Outcome,
    Segmenter,
    Settings,
    Task,
    Unit,
    encoded,
    failed,
    perform,
    too_large,
)
from nuclei.results_folder import ResultsFolder

# A single TIFF of fewer bytes is no slide, whatever its compression.
SMALLEST_SLIDE_BYTES = 2**24
FRAMES_FILE = "frames.csv"
HEAT_MAP = "wells.heatmap"
PARQUET = "parquet"

Runner = Callable[[Iterator[Unit]], Iterator[tuple[Unit, Outcome]]]
"""Does units, and gives what became of each in their order."""


@dataclass(frozen=True)
class Plate:
    """One source of a run.

    Attributes:
        stem: the folder of its results in the output folder.
        tasks: its frames.
        grid: names of the rows and columns of its wells; None for no plate.
    """

    stem: Path
    tasks: list[Task]
    grid: tuple[list[str], list[str]] | None


@dataclass
class Work:
    """What is to be done.

    Attributes:
        tasks: all frames, in the order of the inputs.
        plates: the sources among the inputs.
        unread: why some of the inputs, each one task, cannot be read, by their key.
    """

    tasks: list[Task] = field(default_factory=list)
    plates: list[Plate] = field(default_factory=list)
    unread: dict[str, NucleiError] = field(default_factory=dict)


def find_work(
    inputs: Iterable[tuple[Path, Path]], settings: Settings, choice: Choice | None
) -> Work:
    """The frames of all inputs.

    Args:
        inputs: (path, stem of its results) of each file or folder.
        settings: of the run.
        choice: what is taken of each; None where the caller has chosen nothing: then a TIFF holds
            one frame.
    """
    work = Work()
    for path, stem in inputs:
        one = Task(path, stem, str(stem.with_name(path.name)), settings)
        try:
            if choice is not None or is_always_source(path):
                plate = _plate(one, choice or Choice())
                work.plates.append(plate)
                work.tasks += plate.tasks
            else:
                work.tasks.append(_by_region(one) if _may_be_slide(path) else one)
        except NucleiError as error:
            work.tasks.append(one)
            work.unread[one.key] = error
    return work


def in_process(segmenter: Segmenter) -> Runner:
    """Does one unit after the other."""
    return lambda units: ((unit, perform(unit, segmenter)) for unit in units)


class Run:
    """Does the work, and keeps its books."""

    def __init__(self, work: Work, folder: ResultsFolder, journal: Journal) -> None:
        self._work = work
        self._folder = folder
        self._journal = journal
        self._failed: dict[str, NucleiError] = {}

    def done_before(self) -> int:
        """How many frames are done."""
        return sum(map(self._is_done, self._work.tasks))

    def left(self) -> int:
        """How many units are to be done."""
        return len(self._work.unread) + sum(1 for _ in self._units())

    def outcomes(self, runner: Runner) -> Iterator[tuple[Unit, Outcome]]:
        """Do what is left; what became of each unit, once its results are written.

        Raises:
            ModelNotFound, EngineUnavailable, Unauthenticated: what would fail for all others, too.
        """
        for task in self._work.tasks:
            if task.key in self._work.unread:
                yield Unit(task), self._noted(task, failed(task, self._work.unread[task.key]))
        for unit, outcome in runner(self._units()):
            if unit.region is not None:
                self._keep(unit, outcome)
                yield unit, Outcome()
            else:
                done = outcome if unit.task.slide is None else self._stitched(unit.task)
                yield unit, self._noted(unit.task, done)

    def write_frames(self) -> None:
        """Write the table of the frames that are done."""
        entries = self._journal.entries(task.key for task in self._work.tasks)
        rows = (entry.row | dict(zip(PLACE, entry.place, strict=False)) for entry in entries)
        with self._folder.writing(FRAMES_FILE) as file:
            write_frames(file, rows, PLACE if self._work.plates else ())

    def write_plates(self, gate_px: float | None) -> list[NucleiError]:
        """Write the tables and the picture of each source; return why some could not be.

        Args:
            gate_px: how far a nucleus of a time series moves between frames at most; None for no
                tracks.
        """
        return [
            error
            for plate in self._work.plates
            for error in (*self._write_nuclei(plate, gate_px), *self._write_wells(plate))
        ]

    def versions(self) -> set[str]:
        """The models and versions that segmented the frames."""
        entries = self._journal.entries(task.key for task in self._work.tasks)
        return {
            f"{entry.row['model']} {entry.row['version']}"
            for entry in entries
            if "model" in entry.row
        }

    def _units(self) -> Iterator[Unit]:
        """What is left; a slide itself comes after those of its regions that are."""
        for task in self._work.tasks:
            if task.key in self._work.unread or self._is_done(task):
                continue
            for region in [] if task.slide is None else task.slide.regions():
                if not (self._folder.path / _regions(task) / region.name).exists():
                    yield Unit(task, region)
            yield Unit(task)

    def _is_done(self, task: Task) -> bool:
        return self._journal.is_done(task.key, fingerprint(task.path))

    def _keep(self, unit: Unit, outcome: Outcome) -> None:
        assert unit.region is not None
        if outcome.failures:
            self._failed.setdefault(unit.task.key, outcome.failures[0])
        else:
            self._folder.write(_regions(unit.task) / unit.region.name, outcome.region)

    def _stitched(self, task: Task) -> Outcome:
        assert task.slide is not None
        if task.key in self._failed:
            return failed(task, self._failed.pop(task.key))
        parts = self._folder.path / _regions(task)
        options, number = task.settings.options, task.field or 0
        try:
            with (
                closing(open_source(task.path)) as source,
                stitched(source, number, task.place, options, task.slide, parts) as (frame, found),
            ):
                return encoded(task, frame, found)
        except NucleiError as error:
            return failed(task, error)

    def _noted(self, task: Task, outcome: Outcome) -> Outcome:
        """Write the files of a frame, and then that it is done."""
        for name, pieces in outcome.files.items():
            path = f"{task.stem}.{name}"
            try:
                if format_named(name).is_folder:
                    self._folder.write_folder(path, b"".join(pieces))
                else:
                    with self._folder.writing(path) as file:
                        file.writelines(pieces)
            except NucleiError as error:
                outcome.failures.append(error)
            except MemoryError:
                outcome.failures.append(too_large())
        is_failed = bool(outcome.failures)
        if is_failed:
            outcome.row.update(failed_row(task.name, outcome.failures[0]))
        place = () if task.field is None else task.place
        source = fingerprint(task.path)
        self._journal.add(task.key, source, outcome.row, place, is_failed, outcome.table)
        return outcome

    def _write_nuclei(self, plate: Plate, gate_px: float | None) -> list[NucleiError]:
        keys = [task.key for task in plate.tasks]
        table = NucleiTable(self._journal, keys, gate_px)
        forms = {"csv": table.write_csv}
        if plate.tasks and PARQUET in plate.tasks[0].settings.formats:
            forms[PARQUET] = table.write_parquet
        errors: list[NucleiError] = []
        for form, write in forms.items():
            try:
                with self._folder.writing(plate.stem / f"nuclei.{form}") as file:
                    write(file)
            except NucleiError as error:
                errors.append(error)
        return errors

    def _write_wells(self, plate: Plate) -> list[NucleiError]:
        if plate.grid is None:
            return []
        wells = wells_of(self._journal.entries(task.key for task in plate.tasks))
        try:
            self._folder.write(plate.stem / "wells.csv", wells_table(wells))
            for form, data in heat_map(plate.stem.name, wells, *plate.grid).items():
                self._folder.write(plate.stem / f"{HEAT_MAP}.{form}", data)
        except NucleiError as error:
            return [error]
        return []


def _plate(one: Task, choice: Choice) -> Plate:
    with closing(open_source(one.path)) as source, named(one.path):
        chosen = places(source.fields, choice)
        names = [place.name or one.stem.name for _, place in chosen]
        tasks = []
        for (number, place), name, times in zip(chosen, names, _times(names), strict=True):
            name = name if times == 1 else f"{name}_{number}"
            task = replace(
                one, stem=one.stem / name, name=f"{one.name}/{name}", field=number, place=place
            )
            # The images of a plate are alike, and no slides.
            tasks.append(task if place.well else _with_slide(task, source))
        return Plate(one.stem, tasks, source.wells())


def _times(names: Sequence[str]) -> list[int]:
    """How often each name occurs."""
    count = Counter(names)
    return [count[name] for name in names]


def _may_be_slide(path: Path) -> bool:
    try:
        is_large = path.stat().st_size >= SMALLEST_SLIDE_BYTES
    except OSError:
        return False  # reading says why
    return is_large and path.suffix.lower() in TIFF_SUFFIXES


def _by_region(one: Task) -> Task:
    """A large TIFF of one frame; what is not segmented by region is read at once, as any other."""
    try:
        with closing(open_source(one.path)) as source:
            if len(places(source.fields, Choice())) == 1:
                return _with_slide(replace(one, field=0), source, one)
    except NucleiError:
        pass  # reading it at once says what is wrong
    return one


def _with_slide(task: Task, source: Source, otherwise: Task | None = None) -> Task:
    """The task with how it is segmented by region, where it has to be."""
    number = task.field or 0
    if not is_slide(source.size(number)):
        return otherwise or task
    return replace(task, slide=slide_of(source, number, task.place, task.settings.options))


def _regions(task: Task) -> Path:
    """The folder of the regions of a slide, in the output folder; of this content of its file."""
    return Path(FOLDER, SLIDES, f"{task.key}-{'-'.join(map(str, fingerprint(task.path)))}")
