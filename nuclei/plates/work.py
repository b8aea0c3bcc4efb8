"""The units of a run: each a frame, or a region of one, done by whoever has a segmenter.

A unit is described by values alone, so that it may be done in another process or on another
machine that sees the same files.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from nuclei.errors import (
    EngineUnavailable,
    FrameTooLarge,
    ModelNotFound,
    NucleiError,
    Overloaded,
    Unauthenticated,
)
from nuclei.formats import format_named
from nuclei.formats.tables import csv_table, failed_row, frame_row
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, read_frame
from nuclei.plates.frames import read_place
from nuclei.plates.places import Place
from nuclei.plates.slides import Slide, pack, read_region
from nuclei.plates.sources import Source, fingerprint, open_source
from nuclei.plates.stitching import Region
from nuclei.results.segmentation import Segmentation

Segmenter = Callable[[Frame], Segmentation]

# What would fail for every other frame as well.
STOPPING = (ModelNotFound, EngineUnavailable, Unauthenticated)
# How long a gateway that is busy is asked again.
PATIENCE_S = 600.0
# Sources that a process keeps open.
OPEN_SOURCES = 4
CSV = "csv"
# Of a slide, at most.
OVERLAY, OVERLAY_SIDE_PX = "overlay.png", 4096
NO_PLACE = Place()


@dataclass(frozen=True)
class Settings:
    """What is the same for all units of a run.

    Attributes:
        formats: names of the files to make of each frame, `nuclei.formats.FORMATS`.
        options: how frames are read.
    """

    formats: tuple[str, ...]
    options: FrameOptions


@dataclass(frozen=True)
class Task:
    """A frame to segment.

    Attributes:
        path: the file or folder that it is in.
        stem: the path of its results in the output folder, without what formats append.
        name: of the frame, for tables.
        field: number of its position in the source; None for a file of one frame.
        place: of the frame in its source.
        slide: how it is segmented by region; None for a frame that is segmented at once.
        settings: of the run.
    """

    path: Path
    stem: Path
    name: str
    settings: Settings
    field: int | None = None
    place: Place = NO_PLACE
    slide: Slide | None = None

    @property
    def key(self) -> str:
        """Tells it from the others of a run."""
        return str(self.stem)

    @property
    def title(self) -> str:
        """Names the frame in messages."""
        return f"{self.path} {self.place.name}".strip()


@dataclass(frozen=True)
class Unit:
    """A frame, or a region of a slide; a slide itself stands for the end of its regions."""

    task: Task
    region: Region | None = None

    @property
    def is_frame(self) -> bool:
        return self.region is None


@dataclass
class Outcome:
    """What became of a unit.

    Attributes:
        row: of the table of frames; empty for a region that was segmented.
        files: the pieces of the results, by what is appended to the stem; made as they are taken.
        table: nuclei of a frame of a source, as CSV, likewise.
        region: the nuclei of a region, as `nuclei.plates.slides.pack` makes them.
        warnings: what is doubtful.
        failures: why the frame, or some of its files, could not be made.
        mean_score: of the nuclei; None where there are none.
        milliseconds: that it took.
    """

    row: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Iterable[bytes]] = field(default_factory=dict)
    table: Iterable[bytes] = ()
    region: bytes = b""
    warnings: tuple[str, ...] = ()
    failures: list[NucleiError] = field(default_factory=list)
    mean_score: float | None = None
    milliseconds: float = 0.0

    def whole(self) -> Self:
        """The same, with all files made, to be sent to another process."""
        files: dict[str, Iterable[bytes]] = {
            name: (b"".join(pieces),) for name, pieces in self.files.items()
        }
        return replace(self, files=files, table=(b"".join(self.table),))


def perform(unit: Unit, segmenter: Segmenter) -> Outcome:
    """Do a unit; raises only what would fail for every other as well, `STOPPING`."""
    task = unit.task
    started = time.perf_counter()
    try:
        if task.slide is None:
            frame = _frame(task)
            outcome = encoded(task, frame, _patient(segmenter, frame))
        elif unit.region is not None:
            frame = _region(task, task.slide, unit.region)
            outcome = Outcome(region=pack(_patient(segmenter, frame)))
        else:  # a slide whose regions are done
            outcome = Outcome()
    except STOPPING:
        raise
    except NucleiError as error:
        outcome = failed(task, error)
    except MemoryError:
        outcome = failed(task, too_large())
    outcome.milliseconds = (time.perf_counter() - started) * 1000
    return outcome


def failed(task: Task, error: NucleiError) -> Outcome:
    """The outcome of a frame that could not be segmented."""
    return Outcome(row=failed_row(task.name, error), failures=[error])


def encoded(task: Task, frame: Frame, segmentation: Segmentation) -> Outcome:
    """The files of a frame; one that fails does not keep the others back."""
    outcome = Outcome(row=frame_row(task.name, segmentation), warnings=tuple(segmentation.warnings))
    if len(segmentation.nuclei):
        outcome.mean_score = float(segmentation.nuclei.score.mean())
    if task.field is not None:
        outcome.table = csv_table(segmentation, frame)
    for name in task.settings.formats:
        try:
            if name == CSV and task.field is not None:
                outcome.files[name] = outcome.table
            else:
                drawn = (segmentation, frame)
                if name == OVERLAY and task.slide is not None:
                    drawn = _shrunk(segmentation, frame)
                outcome.files[name] = format_named(name).encode(*drawn, lambda: None)
        except NucleiError as error:
            outcome.failures.append(error)
        except MemoryError:
            outcome.failures.append(too_large())
    return outcome


def opened(path: Path) -> Source:
    """A source that this process keeps open, as the next frames are mostly of the same."""
    return _kept_open(path, tuple(fingerprint(path)))


@lru_cache(maxsize=OPEN_SOURCES)
def _kept_open(path: Path, _: tuple[int, ...]) -> Source:
    return open_source(path)


def _frame(task: Task) -> Frame:
    options = task.settings.options
    if task.field is None:
        return read_frame(task.path, options=options)
    return read_place(opened(task.path), task.field, task.place, options)


def _region(task: Task, slide: Slide, region: Region) -> Frame:
    source, number = opened(task.path), task.field or 0
    return read_region(source, number, task.place, task.settings.options, slide, region.window)


def _patient(segmenter: Segmenter, frame: Frame) -> Segmentation:
    """Ask again while the gateway is busy, when it says so."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return segmenter(frame)
        except Overloaded as error:
            if time.monotonic() + error.retry_after_s > until:
                raise
            time.sleep(error.retry_after_s)


def _shrunk(segmentation: Segmentation, frame: Frame) -> tuple[Segmentation, Frame]:
    """A slide as small as a picture that is looked at, by leaving out rows and columns."""
    step = -(-max(frame.pixels.shape[:2]) // OVERLAY_SIDE_PX)
    labels = np.ascontiguousarray(segmentation.labels[::step, ::step])
    pixels: Any = np.ascontiguousarray(frame.pixels[::step, ::step])
    return replace(segmentation, labels=labels), replace(frame, pixels=pixels)


def too_large() -> FrameTooLarge:
    return FrameTooLarge("it needs more memory than this machine gives; crop it, or free memory")
