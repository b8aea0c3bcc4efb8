"""The frames that the arguments of a command name, and what they name besides."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from nuclei.errors import InvalidOption

RESULT = "results of this command"
NO_FRAME = "not PNG, JPEG or TIFF (export a microscope's own files as OME-TIFF)"
HIDDEN = "hidden"
FOLDER_LINK = "links to folders (name the folders themselves)"
# What `nuclei.plates.run` writes besides the formats.
HEAT_MAP = ("wells.heatmap.png", "wells.heatmap.svg")
# Files that are named, of each reason.
NAMED = 10


@dataclass(frozen=True)
class Job:
    """A frame to segment; `stem` is the path of its results in the output folder."""

    source: Path
    stem: Path


@dataclass(frozen=True)
class Inputs:
    """What arguments name.

    Attributes:
        jobs: the frames, each once.
        skipped: the other files and folders, by the reason.
    """

    jobs: list[Job]
    skipped: dict[str, list[Path]] = field(default_factory=dict)


def find_inputs(paths: Iterable[str], *, with_sources: bool = False) -> Inputs:
    """The frames that the arguments name, each once, and the places of their results.

    A folder stands for all frames in it and its subfolders; results keep the subfolders. A pattern
    stands for the files that match. Files that `nuclei segment` wrote are never frames. A file
    that is named is a frame, whether it is there and can be read or not.

    Args:
        paths: files, folders and patterns.
        with_sources: whether files and folders of many frames, such as an OME-Zarr, are inputs.

    Raises:
        InvalidOption: there is no frame, a folder cannot be read, or two frames would write the
            same results.
    """
    jobs: dict[Path, Job] = {}
    skipped: dict[str, dict[Path, None]] = {}
    for path in paths:
        for found in _found(path, with_sources):
            if isinstance(found, Job):
                _add(jobs, found)
            else:
                skipped.setdefault(found.reason, {})[found.path] = None
    if not jobs:
        raise InvalidOption(_no_frame(paths, skipped))
    return Inputs(list(jobs.values()), {reason: list(names) for reason, names in skipped.items()})


def print_skipped(inputs: Inputs, console: Console) -> None:
    """Say what is left out, and why; the first files of each reason are named."""
    for reason, paths in inputs.skipped.items():
        more = len(paths) - NAMED
        names = ", ".join(map(str, paths[:NAMED])) + (f" and {more} more" if more > 0 else "")
        console.print(f"skipped {len(paths)}, {reason}: {names}", soft_wrap=True)


@dataclass(frozen=True)
class _Skipped:
    path: Path
    reason: str


def _add(jobs: dict[Path, Job], job: Job) -> None:
    taken = jobs.setdefault(job.stem, job)
    if os.path.realpath(taken.source) != os.path.realpath(job.source):
        raise InvalidOption(
            f"{taken.source} and {job.source} would write the same results, "
            f"{job.stem}.*: segment them into two folders"
        )


def _found(path: str, with_sources: bool) -> Iterator[Job | _Skipped]:
    if not path:
        raise InvalidOption("the name of a frame is empty; expected a file, folder or pattern")
    matches = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
    for match in map(Path, matches or [path]):
        if _is_result(match.name):
            yield _Skipped(match, RESULT)
        elif with_sources and _is_source(match):
            yield Job(match, _stem(match.name))
        elif os.path.isdir(match):  # Path.is_dir raises for names that are too long
            yield from _in_folder(match, with_sources)
        else:
            yield Job(match, Path(match.stem))


def _is_source(path: Path) -> bool:
    from nuclei.plates.sources import is_always_source

    return is_always_source(path)


def _stem(name: str) -> Path:
    """Where results of a source go: `plate` for `plate.ome.zarr`."""
    stem = Path(name).stem
    return Path(stem[:-4] if stem.lower().endswith(".ome") else stem)


def _in_folder(folder: Path, with_sources: bool) -> Iterator[Job | _Skipped]:
    """The files of a folder and its subfolders, in the order of their names."""
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
        for name in list(folders):
            path = Path(parent, name)
            if _is_result(name):
                folders.remove(name)
                yield _Skipped(path, RESULT)
            elif with_sources and not name.startswith(".") and _is_source(path):
                folders.remove(name)
                yield Job(path, path.relative_to(folder).with_name(_stem(name).name))
            elif name.startswith(".") or path.is_symlink():
                folders.remove(name)
                yield _Skipped(path, HIDDEN if name.startswith(".") else FOLDER_LINK)
        for name in sorted(files):
            path = Path(parent, name)
            if with_sources and not name.startswith(".") and _is_source(path):
                yield Job(path, path.relative_to(folder).with_name(_stem(name).name))
                continue
            reason = _reason(name)
            stem = path.relative_to(folder).with_suffix("")
            yield Job(path, stem) if reason is None else _Skipped(path, reason)


def _refuse(error: OSError) -> None:
    raise InvalidOption(
        f"{error.filename} cannot be read: {error.strerror}; make it readable, or name the others"
    ) from error


def _reason(name: str) -> str | None:
    """Why a file in a folder is no frame; None for a frame."""
    from nuclei.imaging.images import FRAME_SUFFIXES

    if name.startswith("."):
        return HIDDEN
    if _is_result(name):
        return RESULT
    return None if name.lower().endswith(FRAME_SUFFIXES) else NO_FRAME


def _is_result(name: str) -> bool:
    from nuclei.formats import FORMATS

    return name.endswith((*(f".{form}" for form in FORMATS), *HEAT_MAP))


def _no_frame(paths: Iterable[str], skipped: Iterable[str]) -> str:
    from nuclei.imaging.images import FRAME_SUFFIXES

    found = f", only {'; '.join(skipped)}" if skipped else ""
    return (
        f"no frame in {', '.join(paths)}{found}; expected files ending in "
        f"{', '.join(FRAME_SUFFIXES)}"
    )
