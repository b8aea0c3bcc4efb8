"""Files that are there whole, as they are now or as they were."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def aside(path: Path) -> Path:
    """Where a file is written before it is renamed.

    In the folder itself, as a rename is only whole within a file system. It is the same each time:
    what a process that was killed has left is overwritten by the one that does its work again.
    """
    return path.with_name(f".{path.name}.part")


@contextmanager
def writing_whole(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write piece by piece, which is in its place once the block has ended.

    Args:
        path: in a folder that is there; a file of that name is replaced.
        mode: of the file, less the umask.

    Raises:
        OSError: it cannot be written, such as on a full disk; nothing of it is left.
    """
    incoming = aside(path)
    try:
        incoming.touch(mode)
        with incoming.open("wb") as file:
            yield file
        incoming.replace(path)
    finally:
        with suppress(OSError):  # an error that says what is in the way is being raised
            incoming.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write a file at once, so that nobody reads a part of it; otherwise as `writing_whole`."""
    with writing_whole(path, mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)
