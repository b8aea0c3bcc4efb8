"""Folders that a training or a conversion writes into."""

from collections.abc import Iterator
from contextlib import contextmanager
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
