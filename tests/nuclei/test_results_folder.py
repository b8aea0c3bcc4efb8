"""Results are written whole or not at all, into a folder that is tried first."""

from pathlib import Path

import pytest

from nuclei.errors import InvalidOption
from nuclei.results_folder import ResultsFolder
from tests.full_disk import nearly_full_disk


def test_results_go_into_subfolders_and_nothing_else_is_left(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "new" / "out")
    folder.write("a/b.csv", b"1")
    folder.write("a/b.csv", b"2")
    assert [path.name for path in folder.path.rglob("*")] == ["a", "b.csv"]
    assert (folder.path / "a/b.csv").read_bytes() == b"2"


def test_a_full_disk_leaves_no_half_file_and_the_one_before(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    folder.write("old.csv", b"whole")
    with nearly_full_disk(1000):
        for name in ("old.csv", "new.csv"):
            with pytest.raises(InvalidOption, match=rf"{name} cannot be written: File too large"):
                folder.write(name, b"x" * 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]
    assert (tmp_path / "old.csv").read_bytes() == b"whole"


def test_a_folder_that_cannot_be_one_is_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nosuch")
    for path in (tmp_path / "file", tmp_path / "link", tmp_path / "file" / "out"):
        with pytest.raises(InvalidOption, match="cannot be written"):
            ResultsFolder(path)
    with pytest.raises(InvalidOption, match="cannot be written"):
        ResultsFolder(Path("/proc/nosuch"))
    with nearly_full_disk(0), pytest.raises(InvalidOption, match="cannot be written"):
        ResultsFolder(tmp_path / "full")
