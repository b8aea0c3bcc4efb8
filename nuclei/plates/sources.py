"""Files and folders that hold many frames, opened once and read plane by plane."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import InvalidImage, MissingPrerequisite, NucleiError
from nuclei.imaging.decoding import Decoded
from nuclei.imaging.selection import Selection
from nuclei.plates.places import Field
from nuclei.results.coordinates import PixelSize

Window = tuple[slice, slice]
"""Rows and columns of a plane."""

TIFF_SUFFIXES = (".tif", ".tiff")
# Microscopes' own files.
MICROSCOPE_SUFFIXES = (".czi", ".nd2", ".lif")
ZARR_FILES = ("zarr.json", ".zattrs", ".zgroup")


class Source(Protocol):
    """An open file or folder of frames.

    Attributes:
        fields: its positions.
    """

    fields: tuple[Field, ...]

    def plane(self, field: int, t: int, z: int, selection: Selection) -> Decoded:
        """One plane.

        Args:
            field: number of the position.
            t, z: numbers of the time point and of the slice.
            selection: chooses the channel, where there are several; nothing else.

        Raises:
            InvalidImage, ChoiceRequired, InvalidOption: as `nuclei.imaging.images.read_frame`.
        """
        ...

    def size(self, field: int) -> tuple[int, int]:
        """Height and width of the planes of a position, pixels."""
        ...

    def window(self, field: int, t: int, z: int, selection: Selection, part: Window) -> Decoded:
        """A part of a plane, of which only what is needed is read; else as `plane`."""
        ...

    def wells(self) -> tuple[list[str], list[str]] | None:
        """Names of the rows and of the columns of the plate; None where there is none."""
        ...

    def close(self) -> None: ...


def is_zarr(path: Path) -> bool:
    """Whether a folder is an OME-Zarr, or another Zarr."""
    return any(os.path.exists(path / name) for name in ZARR_FILES)


def is_always_source(path: Path) -> bool:
    """Whether a path is no single frame, whatever is in it."""
    return path.suffix.lower() in MICROSCOPE_SUFFIXES or is_zarr(path)


def fingerprint(path: Path) -> list[int]:
    """Tells whether a file has changed; of a folder, its description; empty if it is gone."""
    described = next((path / name for name in ZARR_FILES if os.path.exists(path / name)), path)
    try:
        found = described.stat()
    except OSError:
        return []
    return [found.st_mtime_ns, found.st_size]


def open_source(path: Path) -> Source:
    """Open a file or folder.

    Raises:
        InvalidImage: it cannot be read, or is none; the path is in the message, as in what its
            methods raise.
        MissingPrerequisite: the extra that reads it is not installed.
    """
    with named(path):
        return _Named(path, _opener(path)(path))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the path before what is wrong; raises InvalidImage for whatever readers raise."""
    try:
        yield
    except (MissingPrerequisite, MemoryError):
        raise
    except NucleiError as error:
        text = str(error)
        if text.startswith(f"{path}: "):
            raise
        raise type(error)(f"{path}: {text}") from error
    except ModuleNotFoundError:
        raise
    except OSError as error:
        raise InvalidImage(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # readers raise any exception on damaged files
        raise InvalidImage(
            f"{path}: is truncated or damaged ({error}); expected a whole file: write it again"
        ) from error


def _opener(path: Path) -> Callable[[Path], Source]:
    suffix = path.suffix.lower()
    if suffix in MICROSCOPE_SUFFIXES:
        from nuclei.plates.microscope_files import MicroscopeFile

        return MicroscopeFile
    if is_zarr(path):
        from nuclei.plates.ome_zarr import ZarrSource

        return ZarrSource
    if suffix in TIFF_SUFFIXES:
        from nuclei.plates.tiff import TiffSource

        return TiffSource
    path.stat()  # what is not there holds nothing
    raise InvalidImage(
        "holds one frame; expected a TIFF, an OME-Zarr or a microscope's own file for --wells, "
        "--fields, --t and --z: segment it without them"
    )


class _Named:
    """A source whose errors name its path and what was read; used by one thread at a time."""

    def __init__(self, path: Path, source: Source) -> None:
        self._path = path
        self._source = source
        self._reading = threading.Lock()
        self.fields = source.fields

    def plane(self, field: int, t: int, z: int, selection: Selection) -> Decoded:
        with self._reading, named(self._path):
            return self._source.plane(field, t, z, selection)

    def size(self, field: int) -> tuple[int, int]:
        with self._reading, named(self._path):
            return self._source.size(field)

    def window(self, field: int, t: int, z: int, selection: Selection, part: Window) -> Decoded:
        with self._reading, named(self._path):
            return self._source.window(field, t, z, selection, part)

    def wells(self) -> tuple[list[str], list[str]] | None:
        return self._source.wells()

    def close(self) -> None:
        self._source.close()


def stored(pixels: NDArray[Any], size: PixelSize | None, warnings: tuple[str, ...] = ()) -> Decoded:
    """A plane [H, W] or [H, W, C] as readers of whole files give it."""
    return Decoded(np.ascontiguousarray(pixels), size, warnings=warnings)
