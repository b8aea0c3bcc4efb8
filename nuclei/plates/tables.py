"""One table of nuclei for each source, and one of the wells of a plate."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from nuclei.errors import MissingPrerequisite
from nuclei.plates.journal import Entry, Journal
from nuclei.plates.tracks import Tracks

if TYPE_CHECKING:
    import pyarrow

PLACE = ("well", "field", "t", "z")
TRACK = "track"
TEXT = ("well", "field", "z")
WHOLE_NUMBERS = ("t", "label", "area_px", "on_border", "neighbor", TRACK)
WELL_COLUMNS = ("well", "frames", "failed", "count", "count_per_frame")

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
    track where there are tracks. One frame is in memory at a time.
    """

    def __init__(self, journal: Journal, keys: Sequence[str], gate_px: float | None = None) -> None:
        """Look at the columns of all frames; arguments as in `links` of `nuclei.plates.tracks`."""
        self._journal = journal
        self._keys = keys
        self._gate_px = gate_px
        columns: dict[str, None] = {}
        for entry in journal.entries(keys):
            header = journal.table(entry).partition(b"\n")[0].decode()
            columns |= dict.fromkeys(header.split(",") if header else ())
        self.columns = [*PLACE, *([] if gate_px is None else [TRACK]), *columns]

    def write_csv(self, file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for rows in self._rows():
            writer.writerows(rows)
        text.detach()

    def write_parquet(self, file: BinaryIO) -> None:
        """A row group for each frame with nuclei; null where something is not known.

        Raises:
            MissingPrerequisite: pyarrow is not installed.
        """
        try:
            import pyarrow
            from pyarrow import csv as arrow_csv
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise MissingPrerequisite(
                "Parquet needs pyarrow, which is not installed: `pip install pyarrow`, or choose "
                "csv"
            ) from None
        schema = pyarrow.schema([(name, _type(pyarrow, name)) for name in self.columns])
        options = arrow_csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=True
        )
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for rows in self._rows():
                text = io.StringIO()
                csv.writer(text).writerows([self.columns, *rows])
                block = io.BytesIO(text.getvalue().encode())
                if rows:
                    writer.write_table(arrow_csv.read_csv(block, convert_options=options))

    def _rows(self) -> Iterator[list[Cells]]:
        """Of each frame."""
        tracks = None if self._gate_px is None else Tracks(self._gate_px)
        for entry in self._journal.entries(self._keys):
            place = ["" if value is None else str(value) for value in entry.place]
            reader = csv.DictReader(io.StringIO(self._journal.table(entry).decode()))
            found = [
                dict(zip(PLACE, place, strict=True))
                | {name: cell or "" for name, cell in row.items()}
                for row in reader
            ]
            if tracks is not None and not entry.failed:
                points = [[float(row[f"centroid_{axis}_px"]) for axis in "yx"] for row in found]
                well, field, t, z = place
                numbers = tracks.add(
                    (well, field, z), int(t or 0), np.array(points, np.float64).reshape(-1, 2)
                )
                for row, number in zip(found, numbers.tolist(), strict=True):
                    row[TRACK] = str(number)
            yield [[row.get(name, "") for name in self.columns] for row in found]


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


def _type(pyarrow: "pyarrow", name: str) -> "pyarrow.DataType":
    if name in TEXT:
        return pyarrow.string()
    is_whole = name in WHOLE_NUMBERS or (name.startswith("box_") and name.endswith("_px"))
    return pyarrow.int64() if is_whole else pyarrow.float64()
