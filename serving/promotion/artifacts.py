"""The artifacts of a model version: contract.json, ONNX files, references; and their digest."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nuclei.errors import InvalidData
from nuclei.names import is_name
from nuclei.quoting import quoted
from serving.repository.files import MAX_GRAPH_BYTES, check_file

# Mask R-CNN, U-Net and their shared steps together are nine files; 20 GB are ten times SAM.
MAX_FILES = 64
MAX_TOTAL_BYTES = 20 * 10**9


def digest(folder: Path) -> str:
    """SHA-256 of a version's artifacts: that of what `sha256sum *` prints in their folder.

    Args:
        folder: one level of files.

    Raises:
        InvalidData: it holds a link, a folder or what is no file, more than `MAX_FILES` files, or
            more bytes than a version may have.
    """
    lines = hashlib.sha256()
    for path in artifact_files(folder):
        with path.open("rb") as file:
            of_file = hashlib.file_digest(file, "sha256").hexdigest()
        lines.update(f"{of_file}  {path.name}\n".encode())
    return lines.hexdigest()


def artifact_files(folder: Path) -> list[Path]:
    """The files of a version's artifacts, by name; raises as `digest` does, before reading them."""
    if folder.is_symlink() or not folder.is_dir():
        raise InvalidData(f"{folder} is no folder with the files of a model; register it again")
    files = sorted(folder.iterdir())
    check_listing((path.name, 0) for path in files)
    for path in files:
        check_file(path, MAX_GRAPH_BYTES)
    check_listing((path.name, path.stat().st_size) for path in files)
    return files


def check_listing(files: Iterable[tuple[str, int]]) -> None:
    """Check the names and sizes of a version's files, which may be what a registry says.

    Args:
        files: the name and the bytes of each.

    Raises:
        InvalidData: a name leads elsewhere or is no name, or they are too many or too large.
    """
    number = total = 0
    for name, size in files:
        if not is_name(name):
            raise InvalidData(
                f"the model has a file named {quoted(name)}; expected names of 1 to 64 of the "
                "characters A-Z a-z 0-9 _ . -, in no folder: register the model again"
            )
        number, total = number + 1, total + size
        if number > MAX_FILES or total > MAX_TOTAL_BYTES:
            raise InvalidData(
                f"the model has more than {MAX_FILES} files or {MAX_TOTAL_BYTES} bytes; register "
                "only what training exports"
            )
    if not number:
        raise InvalidData("the model has no file; register it again")
