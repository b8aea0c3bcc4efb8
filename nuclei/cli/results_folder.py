"""The folder that a command writes into: tried before the work, and without half files."""

import io
import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

from nuclei.errors import InvalidOption


class ResultsFolder:
    """A folder of results. A file in it is whole: it is written aside, then renamed."""

    def __init__(self, path: Path) -> None:
        """Make the folder, with its parents, and try to write into it.

        Raises:
            InvalidOption: it cannot be written.
        """
        self.path = path
        # In the folder itself: a rename is only whole within a file system.
        self._aside = f".nuclei-{os.getpid()}.part"
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / self._aside).write_bytes(b"\n")
        except FileExistsError as error:
            raise InvalidOption(
                f"{error.filename} is not a folder, so {path} cannot be written: name another one"
            ) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            _remove(path / self._aside)

    def write(self, name: Path | str, data: bytes) -> None:
        """Write a file, also into a subfolder; one of that name is replaced.

        Raises:
            InvalidOption: it cannot be written; nothing of it is left, and one that was there is
                as it was.
        """
        path = self.path / name
        aside = path.parent / self._aside
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(data)
            aside.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            _remove(aside)

    def write_folder(self, name: Path | str, archive: bytes) -> None:
        """Write a folder of the files in a zip; one of that name is replaced.

        Raises:
            InvalidOption: as `write`.
        """
        path = self.path / name
        aside, before = path.parent / self._aside, path.parent / f"{self._aside}.before"
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as files:
                files.extractall(aside)
            if path.exists():
                path.replace(before)
            aside.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            for left in (aside, before):
                shutil.rmtree(left, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> InvalidOption:
    return InvalidOption(f"{path} cannot be written: {error.strerror}")


def _remove(path: Path) -> None:
    with suppress(OSError):  # an error that says what is in the way is being raised
        path.unlink(missing_ok=True)
