"""One table of nuclei for each source, and one of the wells of a plate."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from nuclei.formats.parquet import BLOCK_ROWS, STRING, write_parquet
from nuclei.plates.journal import Entry, Journal
from nuclei.plates.tracks import Tracks

PLACE = ("well", "field", "t", "z")
TRACK = "track"
TEXT = ("well", "field", "z")
WHOLE_NUMBERS = ("t", "label", "area_px", "on_border", "neighbor", TRACK)
WELL_COLUMNS = ("well", "frames", "failed", "count", "count_per_frame")

PARSERS: dict[str, Callable[[str], Any]] = {STRING: str, "int64": int, "float64": float}

Cells = list[str]


@dataclass
class Well:
    """What was found in a well.

    Attributes:
        frames: that were segmented.
        failed: that were not.
        count: nuclei of all its frames.
    """

    frames: int = 0
    failed: int = 0
    count: int = 0

    @property
    def count_per_frame(self) -> float | None:
        return self.count / self.frames if self.frames else None


class NucleiTable:
    """The nuclei of all frames of a source, in the order of the frames, read from the journal.

    The columns are those of `nuclei.formats.features`, behind well, field, t and z, and with the
    track where there are tracks. One nucleus is in memory at a time, or some thousands.
    """

    def __init__(self, journal: Journal, keys: Sequence[str], gate_px: float | None = None) -> None:
        """Look at the columns of all frames; arguments as in `links` of `nuclei.plates.tracks`."""
        self._journal = journal
        self._keys = keys
        self._gate_px = gate_px
        columns: dict[str, None] = {}
        for entry in journal.entries(keys):
            columns |= dict.fromkeys(next(csv.reader(journal.lines(entry)), ()))
        self.columns = [*PLACE, *([] if gate_px is None else [TRACK]), *columns]

    def write_csv(self, file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self._rows())
        text.detach()

    def write_parquet(self, file: BinaryIO) -> None:
        """Null where something is not known."""
        types = {name: _type(name) for name in self.columns}
        write_parquet(file, types, self._blocks(types), {})

    def _blocks(self, types: dict[str, str]) -> Iterator[dict[str, list[Any]]]:
        parsers = {name: PARSERS[type_] for name, type_ in types.items()}
        rows = self._rows()
        while block := list(islice(rows, BLOCK_ROWS)):
            yield {
                name: [parse(cell) if cell else None for cell in cells]
                for (name, parse), cells in zip(
                    parsers.items(), zip(*block, strict=True), strict=True
                )
            }

    def _rows(self) -> Iterator[Cells]:
        """Of each nucleus."""
        tracks = None if self._gate_px is None else Tracks(self._gate_px)
        for entry in self._journal.entries(self._keys):
            place = ["" if value is None else str(value) for value in entry.place]
            of_frame = dict(zip(PLACE, place, strict=True))
            numbers = None if tracks is None or entry.failed else self._linked(tracks, entry, place)
            for number, row in enumerate(csv.DictReader(self._journal.lines(entry))):
                found = row | of_frame
                if numbers is not None:
                    found[TRACK] = str(numbers[number])
                yield [found.get(name) or "" for name in self.columns]

    def _linked(self, tracks: Tracks, entry: Entry, place: list[str]) -> list[int]:
        """The tracks of the nuclei of a frame."""
        rows = csv.DictReader(self._journal.lines(entry))
        points = [[float(row[f"centroid_{axis}_px"]) for axis in "yx"] for row in rows]
        well, field, t, z = place
        found = tracks.add(
            (well, field, z), int(t or 0), np.array(points, np.float64).reshape(-1, 2)
        )
        return list(found.tolist())


def wells_of(entries: Iterable[Entry]) -> dict[str, Well]:
    """What was found in each well, by its name."""
    wells: dict[str, Well] = {}
    for entry in entries:
        well = wells.setdefault(entry.place[0], Well())
        if "count" in entry.row:
            well.frames += 1
            well.count += int(entry.row["count"])
        else:
            well.failed += 1
    return wells


def wells_table(wells: dict[str, Well]) -> bytes:
    """CSV of one line per well."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(WELL_COLUMNS)
    for name, well in wells.items():
        each = well.count_per_frame
        writer.writerow(
            [name, well.frames, well.failed, well.count, "" if each is None else f"{each:.2f}"]
        )
    return text.getvalue().encode()


def _type(name: str) -> str:
    if name in TEXT:
        return STRING
    is_whole = name in WHOLE_NUMBERS or (name.startswith("box_") and name.endswith("_px"))
    return "int64" if is_whole else "float64"
