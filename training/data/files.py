"""The files of a data set, in a folder or in a zip."""

import lzma
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired, InvalidData, InvalidInput
from nuclei.imaging.images import Frame, FrameLimits, read_frame, read_labels
from training.data.names import OVERLAY_SUFFIX, is_image

T = TypeVar("T")

MANIFEST = "manifest.csv"
# Where corrected images and their truth are from (`training.data.corrections`).
PROVENANCE = "provenance.csv"
JSON_SUFFIXES = (".json", ".geojson")
YOLO_SUFFIX = ".txt"
YOLO_FOLDER = "labels"
YOLO_CLASSES = ("classes.txt", "data.yaml", "data.yml")
# Images that other programs write, and that are not read here.
FOREIGN_SUFFIXES = (
    *(".czi", ".nd2", ".lif", ".lsm", ".oib", ".oif", ".vsi", ".ims", ".dv", ".stk", ".zvi"),
    *(".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".zarr", ".h5", ".hdf5", ".npy", ".npz", ".mat"),
    *(".bmp", ".gif", ".webp", ".jp2", ".jpf", ".heic", ".dng", ".dcm", ".nii", ".roi"),
)
MAX_BYTES = FrameLimits().max_bytes
# What reading damaged files and zips raises.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


class Files:
    """The files of a folder or a zip that may be part of a data set.

    Attributes:
        names: their paths below it.
        left_out: how many other images there are, by what they are.
        problems: what could not be looked into.
    """

    def __init__(
        self,
        names: Mapping[PurePosixPath, Callable[[], bytes]],
        problems: Sequence[str] = (),
    ) -> None:
        seen = [name for name in names if not _is_hidden(name)]
        self.names = sorted(name for name in seen if _is_data(name))
        others = {other for name in seen if (other := _left_out(name)) is not None}
        self.left_out = Counter(what for what, _ in others)
        self.problems = list(problems)
        self._read = names

    @classmethod
    def of(cls, path: Path) -> "Files":
        """Open a folder or a zip.

        Raises:
            InvalidData: it is neither.
        """
        if path.is_dir():
            return cls._of_folder(path)
        if not path.exists():
            raise InvalidData(f"{path} does not exist; name a folder or a zip of images and masks")
        if not path.is_file():  # a pipe would be waited for, a device has no end
            raise InvalidData(f"{path} is neither a folder nor a file; expected a folder or a zip")
        try:
            archive = zipfile.ZipFile(path)
        except _UNREADABLE as error:
            raise InvalidData(f"{path} is neither a folder nor a whole zip ({error})") from error
        return cls(
            {
                PurePosixPath(member.filename.replace("\\", "/")): _member(archive, member)
                for member in archive.infolist()
                if not member.is_dir()
            }
        )

    @classmethod
    def _of_folder(cls, path: Path) -> "Files":
        problems: list[str] = []

        def note(error: OSError) -> None:
            problems.append(f"{error.filename} cannot be looked into: {error.strerror}")

        found = [
            Path(folder, name) for folder, _, names in os.walk(path, onerror=note) for name in names
        ]
        return cls(
            {PurePosixPath(file.relative_to(path).as_posix()): reader(file) for file in found},
            problems,
        )

    def read(self, name: PurePosixPath) -> bytes:
        """The content of a file.

        Raises:
            InvalidData: it cannot be read; it is not named.
        """
        return self._read[name]()

    def frame(self, image: PurePosixPath) -> Frame:
        """An image; InvalidData names the file."""
        return naming(image, lambda: self._frame(image))

    def _frame(self, image: PurePosixPath) -> Frame:
        try:
            return read_frame(self.read(image))
        except ChoiceRequired as error:  # with options that data sets do not have
            raise InvalidData(
                f"{error.holds}; data sets have one plane an image, grey or RGB: save the channel "
                "and the plane of the nuclei alone"
            ) from error

    def labels(self, name: PurePosixPath) -> NDArray[np.uint32]:
        """Whole numbers, uint32 [H, W], whatever they mean; InvalidData names the file."""
        return naming(name, lambda: read_labels(self.read(name)))


def is_yolo(name: PurePosixPath) -> bool:
    """Whether it is a file of polygons in YOLO's form."""
    folders = [part.lower() for part in name.parent.parts]
    return (
        name.suffix.lower() == YOLO_SUFFIX
        and YOLO_FOLDER in folders
        and name.name.lower() not in YOLO_CLASSES
    )


def naming(name: PurePath, read: Callable[[], T]) -> T:
    """The result of `read`; errors name the file.

    Raises:
        InvalidData: `read` raised InvalidInput.
    """
    try:
        return read()
    except InvalidInput as error:
        raise InvalidData(f"{name}: {error}") from error


def reader(path: Path) -> Callable[[], bytes]:
    """Reads a file, and raises InvalidData, without its name, where it cannot be read."""

    def read() -> bytes:
        with _refusing_what_cannot_be_read():
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise InvalidData("it is no file (a pipe, a device?); expected an image")
            _check_size(found.st_size)
            return path.read_bytes()

    return read


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        if member.flag_bits & 1:
            raise InvalidData("it is encrypted; expected a zip without a password")
        _check_size(member.file_size)
        with _refusing_what_cannot_be_read():
            return archive.read(member)

    return read


@contextmanager
def _refusing_what_cannot_be_read() -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:  # an unusual compression
        raise InvalidData(f"cannot be read ({error}); pack it with deflate") from error
    except _UNREADABLE as error:
        raise InvalidData(f"cannot be read ({error}); expected a whole file") from error


def _check_size(n_bytes: int) -> None:
    if n_bytes > MAX_BYTES:
        raise InvalidData(f"it has {n_bytes} bytes; at most {MAX_BYTES} are read: cut it")


def _is_hidden(name: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)


def _is_data(name: PurePosixPath) -> bool:
    annotated = name.suffix.lower() in JSON_SUFFIXES or is_yolo(name)
    known = annotated or is_image(name) or name.name.lower() in YOLO_CLASSES
    return known or name.name == MANIFEST


def _left_out(name: PurePosixPath) -> tuple[str, PurePosixPath] | None:
    """An image that is not read: what it is, and its file (or folder); None for all other files."""
    if name.stem.lower().endswith(OVERLAY_SUFFIX):
        return "overlays", name
    for image in (*reversed(name.parents), name):
        if image.name.lower().endswith(FOREIGN_SUFFIXES):
            return image.suffix.lower(), image
    return None
