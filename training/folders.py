"""Folders that a training or a conversion writes into."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nuclei.errors import InvalidOption


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Name the folder when it turns out inside that it cannot be written.

    Raises:
        InvalidOption: a file or folder could not be made or written.
    """
    try:
        yield
    except OSError as error:
        raise InvalidOption(
            f"{folder} cannot be written ({error.strerror}); name another folder, or make room"
        ) from error


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Give a folder to write into; all of it gets into `folder` at the end, or nothing.

    Args:
        folder: new, or empty.

    Raises:
        InvalidOption: as `writing`.
    """
    # Inside: a rename is only whole within a file system. Hidden, so it is no part of a data set.
    aside = folder / f".nuclei-{os.getpid()}.part"
    is_new = not folder.exists()
    try:
        with writing(folder):
            aside.mkdir(parents=True)
            yield aside
            for written in sorted(aside.iterdir()):
                written.rename(folder / written.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it holds what was written, or could not be made
                folder.rmdir()
