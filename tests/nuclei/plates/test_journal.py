"""What a run has done survives everything, and nothing is taken for done that is not."""

import sys
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from nuclei.errors import Conflict, InvalidOption
from nuclei.plates.journal import FOLDER, JOURNAL, NUCLEI, Journal

OPTIONS = {"model": "unet", "save": ("csv",)}


def filled(out: Path, count: int = 3) -> Journal:
    journal = Journal(out, OPTIONS)
    for number in range(count):
        add(journal, f"f{number}", f"table {number}".encode())
    return journal


def add(journal: Journal, key: str, table: bytes = b"", failed: bool = False) -> None:
    journal.add(key, [1, 2], {"frame": key}, ("B03", "0", 1, None), failed, [table])


def tables(journal: Journal) -> list[bytes]:
    entries = journal.entries(["f2", "f0", "f1", "f9"])
    return ["".join(journal.lines(entry)).encode() for entry in entries]


def test_a_run_goes_on_after_any_end_of_its_files(tmp_path: Path) -> None:
    filled(tmp_path).close()
    lines = (tmp_path / FOLDER / JOURNAL).read_bytes()
    nuclei = (tmp_path / FOLDER / NUCLEI).read_bytes()
    ends = [n for n, byte in enumerate(lines, start=1) if byte == ord("\n")]
    for cut in sorted({*ends, *range(ends[0], len(lines), 17), *(end - 1 for end in ends[1:])}):
        (tmp_path / FOLDER / JOURNAL).write_bytes(lines[:cut])
        # Behind the last whole line, a table that was being written.
        (tmp_path / FOLDER / NUCLEI).write_bytes(nuclei + b"half a ta")
        journal = Journal(tmp_path, OPTIONS)
        whole = sum(end <= cut for end in ends) - 1
        done = [journal.is_done(f"f{number}", [1, 2]) for number in range(3)]
        assert done == [number < whole for number in range(3)]
        for number in range(whole, 3):
            add(journal, f"f{number}", f"table {number}".encode())
        assert tables(journal) == [b"table 2", b"table 0", b"table 1"]
        journal.close()


def test_files_that_have_changed_and_frames_that_failed_are_done_again(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    assert not journal.is_done("f0", [9, 9])
    add(journal, "f1", failed=True)
    assert not journal.is_done("f1", [1, 2])
    add(journal, "f1", b"again")
    assert journal.is_done("f1", [1, 2])
    assert tables(journal) == [b"table 2", b"table 0", b"again"]
    journal.close()


def test_other_options_are_refused_while_a_run_is_unfinished(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with pytest.raises(InvalidOption, match=r'\(model was "unet" and is "other"\)'):
        Journal(tmp_path, OPTIONS | {"model": "other"})
    with closing(Journal(tmp_path, OPTIONS)) as journal:
        assert journal.is_done("f0", [1, 2])


def test_other_options_begin_anew_once_a_run_has_ended_or_done_nothing(tmp_path: Path) -> None:
    for count, ended in ((1, True), (0, False)):
        out = tmp_path / str(count)
        out.mkdir()
        journal = filled(out, count)
        if ended:
            journal.end(failed=True)
        journal.close()
        again = Journal(out, OPTIONS | {"model": "other"})
        assert not again.is_done("f0", [1, 2])
        add(again, "f0", b"new")
        assert tables(again) == [b"new"]
        again.close()


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    with pytest.raises(Conflict, match="another nuclei segment writes into"):
        Journal(tmp_path, OPTIONS)
    journal.close()
    Journal(tmp_path, OPTIONS).close()


def test_a_run_needs_nothing_that_windows_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = Mock(LK_NBLCK=2)
    monkeypatch.setattr("nuclei.plates.journal.sys", Mock(platform="win32"))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    with closing(filled(tmp_path)) as journal:
        assert tables(journal) == [b"table 2", b"table 0", b"table 1"]
        assert [call.args[1:] for call in windows.locking.call_args_list] == [(2, 1)]
        windows.locking.side_effect = PermissionError
        with pytest.raises(Conflict):
            Journal(tmp_path, OPTIONS)
        journal.end(failed=False)
        assert not (tmp_path / FOLDER).exists()


def test_nothing_is_left_of_a_run_that_is_finished(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.end(failed=False)
    journal.close()
    assert list(tmp_path.iterdir()) == []
