"""Files that are there whole, as they are now or as they were."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write a file aside and put it in its place, so that nobody reads a part of it.

    Args:
        path: in a folder that is there; a file of that name is replaced.
        content: what it is to hold.
        mode: of the file, less the umask.

    Raises:
        OSError: it cannot be written, such as on a full disk; nothing of it is left.
    """
    incoming = path.with_name(f".{path.name}.incoming")
    try:
        incoming.touch(mode)
        incoming.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(incoming, path)
    finally:
        incoming.unlink(missing_ok=True)
