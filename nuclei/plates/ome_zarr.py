"""OME-Zarr 0.4 and 0.5 as a source: images, series of images, and plates (HCS).

Metadata as in https://ngff.openmicroscopy.org/0.5/: `multiscales`, `omero`, `plate` and `well`, in
0.5 below `ome`. The largest resolution is read.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from nuclei.errors import ChoiceRequired, InvalidImage
from nuclei.imaging.decoding import Decoded
from nuclei.imaging.metadata import MICROMETRES_PER, plausible_pixel_size
from nuclei.imaging.selection import Selection, chosen_channel, described_channels
from nuclei.plates.places import Field, well_named
from nuclei.plates.sources import Window, stored
from nuclei.results.coordinates import PixelSize

AXES = "tczyx"
# Files of the attributes of a group: of Zarr 2 and 3.
ATTRIBUTES, GROUP = ".zattrs", "zarr.json"
WHOLE: Window = (slice(None), slice(None))
# Channels of an image in colour.
COLOURS = 3


@dataclass(frozen=True, eq=False)
class _Image:
    """The largest resolution of an image.

    Attributes:
        path: of its array.
        array: with the axes below.
        axes: letters of `AXES`, in the order of the array.
        channels: their names, "" for one without a name.
        pixel_size_um: None when unknown.
        warnings: what is doubtful about it.
    """

    path: Path
    array: zarr.Array[Any]
    axes: str
    channels: tuple[str, ...]
    pixel_size_um: PixelSize | None
    warnings: tuple[str, ...]

    def length(self, axis: str) -> int:
        return int(self.array.shape[self.axes.index(axis)]) if axis in self.axes else 1


class ZarrSource:
    """The planes of an OME-Zarr; images of a plate are opened as they are read."""

    def __init__(self, path: Path) -> None:
        self._plate: Mapping[str, Any] | None = None
        self._paths: list[Path] = []
        self._image: tuple[int, _Image] | None = None
        self.fields = tuple(self._found(path))
        if not self.fields:
            raise InvalidImage("holds no image; expected an OME-Zarr image or plate")

    def plane(self, field: int, t: int, z: int, selection: Selection) -> Decoded:
        return self.window(field, t, z, selection, WHOLE)

    def size(self, field: int) -> tuple[int, int]:
        image = self._opened(field)
        return image.length("y"), image.length("x")

    def window(self, field: int, t: int, z: int, selection: Selection, part: Window) -> Decoded:
        image = self._opened(field)
        warnings = image.warnings
        channels = image.length("c")
        in_colour = channels == COLOURS and selection.channel is None and image.array.dtype == "u1"
        channel: int | slice = slice(None) if in_colour else 0
        if selection.channel is not None:
            channel = selection.channel_among(image.channels)
            if channels > 1:
                warnings += (chosen_channel(channel, image.channels),)
        elif channels > 1 and not in_colour:
            raise ChoiceRequired(
                f"the image holds {described_channels(image.channels)}",
                "choose one with `channel` (number or name)",
            )
        rows, columns = part
        at = {"t": t, "c": channel, "z": z, "y": rows, "x": columns}
        index = tuple(at[axis] for axis in image.axes)
        for axis, expected in zip("tz", self._expected(field), strict=True):
            if image.length(axis) != expected:
                raise InvalidImage(
                    f"{_last(image.path.parent)} has {image.length(axis)} planes along {axis}, and "
                    f"the first image of its plate {expected}: segment it by itself"
                )
        warnings += _missing(image, index)
        pixels = np.asarray(image.array[index])
        return stored(
            np.moveaxis(pixels, 0, -1) if in_colour else pixels, image.pixel_size_um, warnings
        )

    def wells(self) -> tuple[list[str], list[str]] | None:
        if self._plate is None:
            return None
        return (
            [str(row["name"]).upper() for row in self._plate["rows"]],
            [str(column["name"]).zfill(2) for column in self._plate["columns"]],
        )

    def close(self) -> None:
        self._image = None

    def _found(self, path: Path) -> Iterator[Field]:
        """The positions, in the order of the metadata; their paths go into `_paths`."""
        about = _metadata(path)
        if "plate" in about:
            self._plate = about["plate"]
            yield from self._in_plate(path, about["plate"])
        elif "multiscales" in about:
            yield self._field(path, "")
        else:  # a well, or what bioformats2raw makes of a file with several images
            names = _images_of_well(path) or _metadata(path / "OME").get("series")
            for name in names or sorted(filter(str.isdecimal, os.listdir(path)), key=int):
                yield self._field(path / str(name), str(name))

    def _in_plate(self, path: Path, plate: Mapping[str, Any]) -> Iterator[Field]:
        """Images of a plate are alike: the first that can be read tells their sizes."""
        rows = [str(row["name"]) for row in plate["rows"]]
        columns = [str(column["name"]) for column in plate["columns"]]
        sizes: tuple[int, int] | None = None
        for well in plate["wells"]:
            row, column = str(well["path"]).split("/")
            row = rows[int(well["rowIndex"])] if "rowIndex" in well else row
            column = columns[int(well["columnIndex"])] if "columnIndex" in well else column
            folder = path / str(well["path"])
            images = _images_of_well(folder)
            for name in images or [""]:  # a well without images fails by name, too
                self._paths.append(folder / name)
                sizes = sizes or _sizes(folder / name)
                yield Field(well_named(f"{row}{column}"), name, *(sizes or (1, 1)))

    def _field(self, path: Path, name: str) -> Field:
        self._paths.append(path)
        return Field("", name, *(_sizes(path) or (1, 1)))

    def _expected(self, field: int) -> tuple[int, int]:
        return self.fields[field].n_t, self.fields[field].n_z

    def _opened(self, field: int) -> _Image:
        if self._image is None or self._image[0] != field:
            self._image = field, _image_at(self._paths[field])
        return self._image[1]


def _metadata(path: Path) -> Mapping[str, Any]:
    """What OME says of a group; empty for what is no group."""
    for name in (ATTRIBUTES, GROUP):
        if (path / name).is_file():
            found = json.loads((path / name).read_text())
            attributes = found if name == ATTRIBUTES else found.get("attributes", {})
            return dict(attributes.get("ome", attributes))
    return {}


def _images_of_well(folder: Path) -> list[str]:
    try:
        return [str(image["path"]) for image in _metadata(folder)["well"]["images"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _sizes(path: Path) -> tuple[int, int] | None:
    """Numbers of time points and slices; None for an image that cannot be read."""
    try:
        image = _image_at(path)
    except Exception:  # whatever zarr raises; its frames fail by name, and those of others go on
        return None
    return image.length("t"), image.length("z")


def _image_at(path: Path) -> _Image:
    if not path.is_dir():
        raise InvalidImage(f"there is no folder {_last(path)}; expected an image: copy it again")
    about = _metadata(path)
    if not about.get("multiscales"):
        raise InvalidImage(
            f"{_last(path)} has no `multiscales`; expected an OME-Zarr image (0.4 or 0.5): write "
            "it again"
        )
    scales = about["multiscales"][0]
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in scales["axes"]]
    axes = "".join(names)
    if len(set(names)) != len(names) or not {"y", "x"} <= set(names) <= set(AXES):
        raise InvalidImage(
            f"{_last(path)} has the axes {', '.join(names)}; expected some of t, c, z, with y and x"
        )
    if axes.index("y") != axes.index("x") - 1 or axes[-1] != "x":
        raise InvalidImage(f"{_last(path)} has the axes {axes}; expected y and x as the last two")
    largest = scales["datasets"][0]
    array = zarr.open_array(path / str(largest["path"]), mode="r")
    if array.ndim != len(axes):
        raise InvalidImage(f"{_last(path)} has {array.ndim} axes, and names {axes}; write it again")
    size, warnings = _pixel_size(scales, largest, axes)
    n_channels = int(array.shape[axes.index("c")]) if "c" in axes else 1
    labels = [str(one.get("label", "")) for one in about.get("omero", {}).get("channels", [])]
    channels = labels if len(labels) == n_channels else [""] * n_channels
    return _Image(path / str(largest["path"]), array, axes, tuple(channels), size, warnings)


def _pixel_size(
    scales: Mapping[str, Any], largest: Mapping[str, Any], axes: str
) -> tuple[PixelSize | None, tuple[str, ...]]:
    """From the scales of the resolution and of all, and the units of the axes."""
    sides = {"y": 1.0, "x": 1.0}
    transforms = [
        *largest.get("coordinateTransformations", []),
        *scales.get("coordinateTransformations", []),
    ]
    for transform in transforms:
        if transform.get("type") == "scale" and "scale" in transform:
            for axis in sides:
                sides[axis] *= float(transform["scale"][axes.index(axis)])
    units = {axis["name"]: axis.get("unit") for axis in scales["axes"] if isinstance(axis, dict)}
    factors = [MICROMETRES_PER.get(str(units.get(axis)).lower(), 0) for axis in "yx"]
    if 0 in factors:
        return None, ()
    return plausible_pixel_size(
        (sides["y"] * factors[0], sides["x"] * factors[1]), "its OME-Zarr metadata"
    )


def _missing(image: _Image, index: tuple[int | slice, ...]) -> tuple[str, ...]:
    """A sentence where chunks were never written, which read as one value.

    Raises:
        InvalidImage: none of them was.
    """
    stored_as = image.array.shards or image.array.chunks
    grid = []
    for at, length, chunk in zip(index, image.array.shape, stored_as, strict=True):
        first, last, _ = at.indices(length) if isinstance(at, slice) else (at, at + 1, 1)
        grid.append(range(first // chunk, (last - 1) // chunk + 1))
    keys = [image.array.metadata.encode_chunk_key(place) for place in product(*grid)]
    lacking = sum(not os.path.exists(image.path / key) for key in keys)
    if lacking == len(keys):
        raise InvalidImage(
            f"nothing was written into this plane of {_last(image.path.parent)}; expected its "
            f"pixels, such as the chunk {keys[0]}: acquire or copy it again"
        )
    if not lacking:
        return ()
    return (
        f"{lacking} of the {len(keys)} chunks of the plane were never written, and were read as "
        f"{image.array.fill_value}",
    )


def _last(path: Path) -> str:
    """The end of a path that tells a well and a field."""
    return "/".join(path.parts[-3:])
