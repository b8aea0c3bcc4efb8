"""CZI, ND2 and LIF as sources, by ZEISS's library, nd2 and liffile (the extra `microscopes`)."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired, InvalidImage, MissingPrerequisite
from nuclei.imaging.decoding import Decoded
from nuclei.imaging.metadata import plausible_pixel_size
from nuclei.imaging.selection import Selection, chosen_channel, described_channels
from nuclei.plates.places import Field
from nuclei.plates.sources import Window, stored

WHOLE: Window = (slice(None), slice(None))
METRES, MICROMETRES = 1e6, 1.0


class Position(NamedTuple):
    """One image of a file.

    Attributes:
        name: empty where there is one alone.
        n_t, n_z: numbers of time points and slices.
        height, width: pixels.
        channels: their names, "" for one without a name.
        size_um: (y, x), micrometres, as the file says; None where it says nothing.
    """

    name: str
    n_t: int
    n_z: int
    height: int
    width: int
    channels: tuple[str, ...]
    size_um: tuple[float, float] | None


class Reader(Protocol):
    """An open file."""

    def positions(self) -> list[Position]:
        """What it holds; called once, before anything is read."""
        ...

    def read(self, position: int, t: int, z: int, channel: int, part: Window) -> NDArray[Any]:
        """A part of a plane: [H, W], or [H, W, 3] of red, green and blue."""
        ...

    def close(self) -> None: ...


class MicroscopeFile:
    """The planes of a microscope's own file."""

    def __init__(self, path: Path) -> None:
        kind = path.suffix[1:].upper()
        beginnings, package, opened = _KINDS[kind]
        with path.open("rb") as file:
            begins = file.read(16)
        if not begins.startswith(beginnings):
            raise InvalidImage(
                f"is no {kind}, whatever its name says; expected a file that the microscope's "
                "program has written: copy it again"
            )
        try:
            self._reader = opened(path)
        except ModuleNotFoundError as error:
            raise MissingPrerequisite(
                f"{path}: {kind} files are read by {package}, which is not installed: run "
                "`pip install 'nuclei-serving[microscopes]'`, or export the file as OME-TIFF"
            ) from error
        # Also where it is merely let go, as by a cache, or at the end of the process.
        self._closing = weakref.finalize(self, self._reader.close)
        self._positions = self._reader.positions()
        self.fields = tuple(Field("", one.name, one.n_t, one.n_z) for one in self._positions)

    def plane(self, field: int, t: int, z: int, selection: Selection) -> Decoded:
        return self.window(field, t, z, selection, WHOLE)

    def size(self, field: int) -> tuple[int, int]:
        return self._positions[field].height, self._positions[field].width

    def window(self, field: int, t: int, z: int, selection: Selection, part: Window) -> Decoded:
        position = self._positions[field]
        names = position.channels
        warnings: tuple[str, ...] = ()
        channel = 0
        if selection.channel is not None:
            channel = selection.channel_among(names)
            if len(names) > 1:
                warnings = (chosen_channel(channel, names),)
        elif len(names) > 1:
            raise ChoiceRequired(
                f"the image holds {described_channels(names)}",
                "choose one with `channel` (number or name)",
            )
        size, doubts = plausible_pixel_size(position.size_um, "its metadata")
        pixels = self._reader.read(field, t, z, channel, part)
        return stored(pixels, size, warnings + doubts)

    def wells(self) -> None:
        return None

    def close(self) -> None:
        self._closing()


class _Czi:
    def __init__(self, path: Path) -> None:
        from pylibCZIrw import czi

        self._opening = czi.open_czi(str(path))
        self._file = self._opening.__enter__()
        self._first: dict[str, int] = {}
        # Of each position, its scene and the pixels of that.
        self._areas: list[tuple[int | None, Any]] = []

    def positions(self) -> list[Position]:
        box = self._file.total_bounding_box
        self._first = {axis: box.get(axis, (0, 1))[0] for axis in "TZC"}
        n_t, n_z, n_c = (box.get(axis, (0, 1))[1] - self._first[axis] for axis in "TZC")
        scenes = self._file.scenes_bounding_rectangle_no_pyramid
        # Without scenes, all of it is one.
        self._areas = list(scenes.items()) or [
            (None, self._file.total_bounding_rectangle_no_pyramid)
        ]
        about = self._file.metadata["ImageDocument"]["Metadata"]
        names = _czi_channels(about, n_c)
        return [
            Position(
                str(scene) if len(self._areas) > 1 else "",
                *(n_t, n_z, area.h, area.w),
                names,
                _czi_pixel_size(about),
            )
            for scene, area in self._areas
        ]

    def read(self, position: int, t: int, z: int, channel: int, part: Window) -> NDArray[Any]:
        scene, area = self._areas[position]
        rows, columns = (
            one.indices(length)[:2] for one, length in zip(part, (area.h, area.w), strict=True)
        )
        window = (
            *(area.x + columns[0], area.y + rows[0]),
            *(columns[1] - columns[0], rows[1] - rows[0]),
        )
        plane = {
            axis: at + self._first[axis] for axis, at in zip("TZC", (t, z, channel), strict=True)
        }
        self._check_written(plane, window)
        pixels = np.asarray(self._file.read(roi=window, plane=plane, scene=scene))
        return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, ::-1]

    def _check_written(self, plane: dict[str, int], window: tuple[int, ...]) -> None:
        """Raises InvalidImage where there are no data, which read as zeros."""
        found: list[int] = []

        def ends_at_the_first(number: int, _: object) -> bool:
            found.append(number)
            return False

        self._file.enumerate_subblocks_subset(ends_at_the_first, plane=plane, roi=window)
        if not found:
            raise InvalidImage(
                "nothing was written into this plane; expected its pixels: acquire or copy it again"
            )

    def close(self) -> None:
        self._opening.__exit__(None, None, None)


def _czi_channels(about: dict[str, Any], count: int) -> tuple[str, ...]:
    try:
        found = about["Information"]["Image"]["Dimensions"]["Channels"]["Channel"]
    except (KeyError, TypeError):
        return ("",) * count
    listed = found if isinstance(found, list) else [found]
    names = tuple(str(one.get("@Name", "")) for one in listed)
    return names if len(names) == count else ("",) * count


def _czi_pixel_size(about: dict[str, Any]) -> tuple[float, float] | None:
    try:
        sides = {
            one["@Id"]: float(one["Value"]) * METRES
            for one in about["Scaling"]["Items"]["Distance"]
        }
        return sides["Y"], sides["X"]
    except (KeyError, TypeError, ValueError):
        return None


class _Nd2:
    def __init__(self, path: Path) -> None:
        import nd2

        self._file = nd2.ND2File(path)
        self._frames: dict[tuple[int, ...], int] = {}

    def positions(self) -> list[Position]:
        sizes = self._file.sizes
        self._frames = {
            tuple(index.get(axis, 0) for axis in "PTZ"): number
            for number, index in enumerate(self._file.loop_indices)
        }
        n_p, n_t, n_z, n_c = (sizes.get(axis, 1) for axis in "PTZC")
        names, size = self._described(n_c)
        return [
            Position(str(number) if n_p > 1 else "", n_t, n_z, sizes["Y"], sizes["X"], names, size)
            for number in range(n_p)
        ]

    def _described(self, count: int) -> tuple[tuple[str, ...], tuple[float, float] | None]:
        """Names of the channels; pixel size of those that are calibrated."""
        about: Any = self._file.metadata
        described = getattr(about, "channels", None) or []
        names = tuple(one.channel.name or "" for one in described)
        is_known = bool(described) and all(described[0].volume.axesCalibrated[:2])
        voxel = self._file.voxel_size()
        return (
            names if len(names) == count else ("",) * count,
            (voxel.y * MICROMETRES, voxel.x * MICROMETRES) if is_known else None,
        )

    def read(self, position: int, t: int, z: int, channel: int, part: Window) -> NDArray[Any]:
        frame = self._file.read_frame(self._frames[position, t, z])
        if self._file.is_rgb:
            return np.asarray(frame[part])
        return np.asarray(frame[(channel, *part)] if frame.ndim == 3 else frame[part])

    def close(self) -> None:
        self._file.close()


class _Lif:
    def __init__(self, path: Path) -> None:
        import liffile

        self._file = liffile.LifFile(path)
        # Tiles of a mosaic are positions of their own.
        self._images: list[tuple[Any, dict[str, int]]] = []

    def positions(self) -> list[Position]:
        found: list[Position] = []
        for image in self._file.images:
            sizes = dict(image.sizes)
            if not {"Y", "X"} <= sizes.keys() <= set("MTZCYXS"):
                continue  # lines, spectra and lifetimes
            for tile in range(sizes.get("M", 1)):
                self._images.append((image, {"M": tile} if "M" in sizes else {}))
                name = f"{image.name}-{tile}" if "M" in sizes else image.name
                found.append(_lif_position(image, sizes, name))
        if not found:
            raise InvalidImage("holds no image of rows and columns; expected one: export it again")
        return [found[0]._replace(name="")] if len(found) == 1 else found

    def read(self, position: int, t: int, z: int, channel: int, part: Window) -> NDArray[Any]:
        image, at = self._images[position]
        wanted = {"T": t, "Z": z, "C": channel}
        at = at | {axis: number for axis, number in wanted.items() if axis in image.sizes}
        return np.asarray(image.frame(**at)[part])

    def close(self) -> None:
        self._file.close()


def _lif_position(image: Any, sizes: dict[str, int], name: str) -> Position:
    steps = [np.diff(image.coords[axis][:2]) for axis in "YX"]
    described = image.xml_element.findall(".//ChannelDescription")
    names = tuple(str(one.get("LUTName", "")) for one in described)
    count = sizes.get("C", 1)
    return Position(
        name,
        *(sizes.get("T", 1), sizes.get("Z", 1), sizes["Y"], sizes["X"]),
        names if len(names) == count else ("",) * count,
        None
        if not all(len(step) for step in steps)
        else (float(steps[0][0]) * METRES, float(steps[1][0]) * METRES),
    )


# How a file begins, what reads it, and how that opens it.
_KINDS: dict[str, tuple[tuple[bytes, ...], str, Callable[[Path], Reader]]] = {
    "CZI": ((b"ZISRAWFILE",), "pylibCZIrw", _Czi),
    # The latter is JPEG 2000, before 2008.
    "ND2": ((b"\xda\xce\xbe\n", b"\x00\x00\x00\x0cjP  "), "nd2", _Nd2),
    "LIF": ((b"\x70\x00\x00\x00",), "liffile", _Lif),
}
