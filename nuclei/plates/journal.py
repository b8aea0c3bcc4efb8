"""What a run has done, in a file that says so at any moment: killed, it goes on from there."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nuclei.errors import Conflict, InvalidOption
from nuclei.results_folder import unwritable

FOLDER = ".nuclei-run"
JOURNAL, NUCLEI = "journal.jsonl", "nuclei.csvs"
# Of the regions of slides.
SLIDES = "slides"
LOCKED_BYTE = 2**31 - 2


@dataclass(frozen=True)
class Entry:
    """One frame.

    Attributes:
        key: the path of its results in the output folder.
        source: fingerprint of the file that it is of.
        row: of the table of frames.
        place: well, field, t and z of a frame of a source; empty for a file of one frame.
        failed: whether it, or one of its results, could not be made.
        block: (start, length), bytes of its table of nuclei among those of all.
    """

    key: str
    source: list[int]
    row: dict[str, Any]
    place: list[Any]
    failed: bool
    block: tuple[int, int]


class Journal:
    """The frames that are done, and their nuclei.

    The folder `.nuclei-run` of the output folder holds two files that only grow: a line for each
    frame, written once all its results are there, and the tables of nuclei. What is behind the last
    whole line was not finished, and is cut off. Only one process writes into it.
    """

    def __init__(self, out: Path, options: Mapping[str, Any]) -> None:
        """Begin a run, or go on with one that was killed or left frames that failed.

        Args:
            out: the output folder, which is there.
            options: all that decides about the results, values that JSON holds.

        Raises:
            Conflict: another process writes into this folder.
            InvalidOption: a run with other options is not finished.
        """
        self.folder = out / FOLDER
        self._out = out
        self._offsets: dict[str, int] = {}
        self._done: dict[str, list[int]] = {}
        try:
            self.folder.mkdir(exist_ok=True)
            self._lines = _open(self.folder / JOURNAL)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        try:
            _lock(self._lines)
        except (BlockingIOError, PermissionError) as error:
            self._lines.close()
            raise Conflict(
                f"another nuclei segment writes into {out}; wait for it, or name another --out"
            ) from error
        self._nuclei = _open(self.folder / NUCLEI)
        try:
            end = self._read(dict(options))
            self._nuclei.truncate(end)
            self._nuclei.seek(end)
        except BaseException:
            self._nuclei.close()
            self._lines.close()
            raise

    def is_done(self, key: str, source: list[int]) -> bool:
        """Whether a frame is done, and its file has not changed since."""
        return self._done.get(key) == source

    def add(
        self,
        key: str,
        source: list[int],
        row: Mapping[str, Any],
        place: Iterable[Any],
        failed: bool,
        table: Iterable[bytes],
    ) -> None:
        """Note a frame whose results are written.

        Args:
            table: its nuclei, in pieces of any length.
            key, source, row, place, failed: attributes of `Entry`.

        Raises:
            InvalidOption: the disk is full.
        """
        try:
            start = self._nuclei.tell()
            self._nuclei.writelines(table)
            self._nuclei.flush()
            entry = {
                "key": key,
                "source": source,
                "row": dict(row),
                "place": list(place),
                "failed": failed,
                "block": (start, self._nuclei.tell() - start),
            }
            offset = self._write(entry)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self._note(key, source, failed, offset)

    def entries(self, keys: Iterable[str]) -> Iterator[Entry]:
        """Those of the keys that are noted, in this order; each is read from the file."""
        with (self.folder / JOURNAL).open("rb") as lines:
            for key in keys:
                if key in self._offsets:
                    lines.seek(self._offsets[key])
                    yield Entry(**json.loads(lines.readline()))

    def lines(self, entry: Entry) -> Iterator[str]:
        """The lines of the table of a frame, one after the other, as they were added."""
        start, length = entry.block
        with (self.folder / NUCLEI).open("rb") as file:
            file.seek(start)
            while line := file.readline(length):
                length -= len(line)
                yield line.decode()

    def end(self, failed: bool) -> None:
        """The run has tried every frame; with failures, the same options try those again."""
        if failed:
            self._write({"ended": True})
        else:
            self._remove()

    def close(self) -> None:
        """Leave what a run needs to go on, and nothing where there is none."""
        if self._is_empty():
            self._remove()
        self._close_files()

    def _remove(self) -> None:
        if sys.platform == "win32":  # removes no file that is open
            self._close_files()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _close_files(self) -> None:
        self._nuclei.close()
        self._lines.close()

    def _read(self, options: dict[str, Any]) -> int:
        """Read what is there; return where the nuclei of the last frame end."""
        whole, ended, before = 0, False, None
        end = 0
        for line in self._lines:
            try:
                said = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                said = None
            if said is None:
                break
            if "options" in said:
                before = said["options"]
            elif "ended" in said:
                ended = True
            else:
                ended = False
                self._note(said["key"], said["source"], said["failed"], whole)
                end = max(end, sum(said["block"]))
            whole += len(line)
        self._lines.truncate(whole)
        self._lines.seek(whole)
        # What JSON makes of a tuple is a list.
        options = json.loads(json.dumps(options))
        if before == options:
            return end
        if before is not None and not ended and not self._is_empty():
            raise InvalidOption(self._differing(before, options))
        self._offsets, self._done = {}, {}
        shutil.rmtree(self.folder / SLIDES, ignore_errors=True)
        self._lines.seek(0)
        self._lines.truncate()
        self._write({"options": options})
        return 0

    def _is_empty(self) -> bool:
        """Whether there is nothing that a run could go on from."""
        return not self._offsets and not (self.folder / SLIDES).exists()

    def _differing(self, before: dict[str, Any], options: dict[str, Any]) -> str:
        different = ", ".join(
            f"{name} was {json.dumps(before.get(name))} and is {json.dumps(options.get(name))}"
            for name in sorted(before.keys() | options.keys())
            if before.get(name) != options.get(name)
        )
        return (
            f"{self._out} holds an unfinished run with other options ({different}): finish it with "
            f"the same ones, name another --out, or delete {self.folder} to begin anew"
        )

    def _note(self, key: str, source: list[int], failed: bool, offset: int) -> None:
        self._offsets[key] = offset
        self._done.pop(key, None)
        if not failed:
            self._done[key] = source

    def _write(self, said: Mapping[str, Any]) -> int:
        offset = self._lines.tell()
        self._lines.write(json.dumps(said).encode() + b"\n")
        self._lines.flush()
        return offset


def _open(path: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")


def _lock(file: BinaryIO) -> None:
    """Take a file for this process, as long as it is open.

    Raises:
        BlockingIOError, PermissionError: another process has it.
    """
    if sys.platform == "win32":
        import msvcrt

        # What is locked there nobody reads: a byte that will never be written.
        os.lseek(file.fileno(), LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
