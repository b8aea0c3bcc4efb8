"""The files of a data set, in a folder or in a zip."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidData, InvalidInput
from nuclei.imaging.images import FRAME_SUFFIXES, read_frame, read_labels

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
T = TypeVar("T")

MANIFEST = "manifest.csv"
IMAGES_FOLDER = "images"
COCO_SUFFIX = ".json"
YOLO_SUFFIX = ".txt"
YOLO_FOLDER = "labels"


class Files:
    """The files of a folder or a zip that may be part of a data set.

    Attributes:
        names: their paths below it.
    """

    def __init__(self, names: Sequence[str], read: Callable[[str], bytes]) -> None:
        self.names = [PurePosixPath(name) for name in names if _is_data(PurePosixPath(name))]
        self._read = read

    @classmethod
    def of(cls, path: Path) -> "Files":
        """Open a folder or a zip.

        Raises:
            InvalidData: it is neither.
        """
        if path.is_dir():
            found = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
            names = [name.as_posix() for name in found]
            return cls(names, lambda name: (path / name).read_bytes())
        if not path.exists():
            raise InvalidData(f"{path} does not exist; name a folder or a zip of images and masks")
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InvalidData(f"{path} is neither a folder nor a whole zip ({error})") from error
        return cls(archive.namelist(), archive.read)

    def images(self) -> list[PurePosixPath]:
        """Images and label images."""
        return [name for name in self.names if name.suffix.lower() in FRAME_SUFFIXES]

    def read(self, name: PurePosixPath) -> bytes:
        return self._read(str(name))

    def pixels(self, image: PurePosixPath) -> Pixels:
        """uint8 or uint16 [H, W, C]; InvalidData names the file."""
        return naming(image, lambda: read_frame(self.read(image))).pixels

    def labels(self, name: PurePosixPath) -> NDArray[np.uint32]:
        """uint32 [H, W]; InvalidData names the file."""
        return naming(name, lambda: read_labels(self.read(name)))


def is_yolo(name: PurePosixPath) -> bool:
    """Whether it is a file of polygons in YOLO's form."""
    return name.suffix == YOLO_SUFFIX and YOLO_FOLDER in name.parent.parts


def naming(name: PurePosixPath, read: Callable[[], T]) -> T:
    """The result of `read`; errors name the file.

    Raises:
        InvalidData: `read` raised InvalidInput.
    """
    try:
        return read()
    except InvalidInput as error:
        raise InvalidData(f"{name}: {error}") from error


def _is_data(name: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts)
    annotated = name.suffix == COCO_SUFFIX or is_yolo(name)
    known = annotated or name.suffix.lower() in FRAME_SUFFIXES or name.name == MANIFEST
    return known and not hidden
