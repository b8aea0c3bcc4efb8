"""The folder that a command writes into: tried before the work, and without half files."""

import io
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nuclei.errors import InvalidOption
from nuclei.whole_file import aside, writing_whole


class ResultsFolder:
    """A folder of results. A file in it is whole: it is written aside, then renamed."""

    def __init__(self, path: Path) -> None:
        """Make the folder, with its parents, and try to write into it.

        Raises:
            InvalidOption: it cannot be written.
        """
        self.path = path
        tried = aside(path / "nuclei")
        try:
            path.mkdir(parents=True, exist_ok=True)
            tried.write_bytes(b"\n")
        except FileExistsError as error:
            raise InvalidOption(
                f"{error.filename} is not a folder, so {path} cannot be written: name another one"
            ) from error
        except OSError as error:
            raise unwritable(path, error) from error
        finally:
            with suppress(OSError):  # an error that says what is in the way is being raised
                tried.unlink(missing_ok=True)

    def write(self, name: Path | str, data: bytes) -> None:
        """Write a file, also into a subfolder; one of that name is replaced.

        Raises:
            InvalidOption: it cannot be written; nothing of it is left, and one that was there is
                as it was.
        """
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: Path | str) -> Iterator[BinaryIO]:
        """A file to write piece by piece, which is there once the block has ended; as `write`."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing_whole(path) as file:
                yield file
        except OSError as error:
            raise unwritable(path, error) from error

    def write_folder(self, name: Path | str, archive: bytes) -> None:
        """Write a folder of the files in a zip; one of that name is replaced.

        Raises:
            InvalidOption: as `write`.
        """
        path = self.path / name
        incoming = aside(path)
        before = incoming.with_suffix(".before")
        try:
            for left in (incoming, before):
                shutil.rmtree(left, ignore_errors=True)
            with zipfile.ZipFile(io.BytesIO(archive)) as files:
                files.extractall(incoming)
            if path.exists():
                path.replace(before)
            incoming.replace(path)
        except OSError as error:
            raise unwritable(path, error) from error
        finally:
            for left in (incoming, before):
                shutil.rmtree(left, ignore_errors=True)


def unwritable(path: Path, error: OSError) -> InvalidOption:
    return InvalidOption(f"{path} cannot be written: {error.strerror}")
