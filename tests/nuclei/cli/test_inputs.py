"""Which files of a folder or pattern are frames, and what is said of the others."""

from pathlib import Path

import pytest

from nuclei.cli.inputs import FOLDER_LINK, HIDDEN, NO_FRAME, RESULT, find_inputs
from nuclei.errors import InvalidOption


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_keep_subfolders_and_account_for_every_file(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.TIF", "2.jpeg", "notes.txt", "a/3.czi", ".hidden.png")
    touch(tmp_path, "2.overlay.png", "2.labels.tif", "2.labels.png", "2.csv", ".cache/4.png")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    (tmp_path / "5.png").symlink_to("nosuch.png")
    found = find_inputs([str(tmp_path)])
    jobs = {str(job.stem): job.source.name for job in found.jobs}
    assert jobs == {"2": "2.jpeg", "5": "5.png", "a/1": "1.png", "b/1": "1.TIF"}
    skipped = {
        reason: sorted(path.name for path in paths) for reason, paths in found.skipped.items()
    }
    assert skipped == {
        HIDDEN: [".cache", ".hidden.png"],
        FOLDER_LINK: ["c"],
        RESULT: ["2.csv", "2.labels.png", "2.labels.tif", "2.overlay.png"],
        NO_FRAME: ["3.czi", "notes.txt"],
    }


def test_patterns_and_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "deep/c.png", "[1].png", "a.overlay.png")
    found = find_inputs([f"{tmp_path}/*.png", f"{tmp_path}/a.png", f"{tmp_path}/a.overlay.png"])
    assert sorted(str(job.stem) for job in found.jobs) == ["[1]", "a", "b"]
    assert found.skipped == {RESULT: [tmp_path / "a.overlay.png"]}
    assert [str(job.stem) for job in find_inputs([f"{tmp_path}/[1].png"]).jobs] == ["[1]"]
    deep = find_inputs([f"{tmp_path}/**/*.png"]).jobs
    assert sorted(job.source.name for job in deep) == ["[1].png", "a.png", "b.png", "c.png"]


@pytest.mark.parametrize("names", [("a.png", "a.tif"), ("x/a.png", "y/a.png")])
def test_results_that_would_overwrite_each_other_are_refused(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InvalidOption, match="would write the same results"):
        find_inputs([str(tmp_path / name) for name in names])


def test_a_folder_without_frames_is_named_with_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"no frame in .*; expected files ending in .png"):
        find_inputs([str(tmp_path)])
    touch(tmp_path, "a.czi")
    with pytest.raises(InvalidOption, match=r"only not PNG.*; expected files ending in .png"):
        find_inputs([str(tmp_path)])


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(InvalidOption, match="name of a frame is empty"):
        find_inputs([""])


def test_what_is_named_is_a_frame_whether_it_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    names = [str(tmp_path / name) for name in ("nosuch.png", "loop.png", "x" * 300)]
    assert [str(job.source) for job in find_inputs(names).jobs] == names
