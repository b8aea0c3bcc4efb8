"""TIFF, OME-TIFF and ImageJ's TIFF as a source: read by the decoder of single frames."""

import mmap
import string
from pathlib import Path

import numpy as np

from nuclei.errors import ChoiceRequired, InvalidImage
from nuclei.imaging.decoding import CheckShape, Decoded
from nuclei.imaging.decoding.stacks import Stack
from nuclei.imaging.decoding.tiff import OpenTiff
from nuclei.imaging.images import FrameLimits
from nuclei.imaging.selection import Selection
from nuclei.imaging.silence import silent_decoders
from nuclei.plates.places import Field
from nuclei.plates.sources import Window, stored

CHANNELS, SLICES, POSITIONS, TIMES = "C", "Z", "R", "T"
_CHECK: CheckShape = FrameLimits().check_shape


def _any_shape(height: int, width: int) -> None:
    """Windows of a slide are small, however large it is."""
    if height < 1 or width < 1:
        raise InvalidImage(f"the image is {height} x {width} pixels; expected at least 1 x 1")


class TiffSource:
    """The planes of a TIFF, whose file is mapped into memory, not read."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file, silent_decoders():
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise InvalidImage("the file is empty; expected a TIFF") from error
            self._view = memoryview(self._map)
            self._tiff = OpenTiff(self._view)
        # Of each field, its image and its number on the axis of positions.
        self._images: list[tuple[Stack, int]] = []
        fields = []
        several = len(self._tiff.images) > 1
        for number, image in enumerate(self._tiff.images):
            positions = _length(image, POSITIONS)
            for position in range(positions):
                name = (image.name or str(number)) if several else ""
                if positions > 1:
                    name = f"{name}-{position}" if name else str(position)
                self._images.append((image, position))
                fields.append(
                    Field(image.well, name, _length(image, TIMES), _length(image, SLICES))
                )
        self.fields = _distinct(fields)

    def plane(self, field: int, t: int, z: int, selection: Selection) -> Decoded:
        stack, of_plane = self._selection(field, t, z, selection)
        with silent_decoders():
            return self._tiff.decode(stack, _CHECK, of_plane)

    def size(self, field: int) -> tuple[int, int]:
        return self._tiff.size(self._images[field][0])

    def window(self, field: int, t: int, z: int, selection: Selection, part: Window) -> Decoded:
        import zarr

        stack, of_plane = self._selection(field, t, z, selection)
        with silent_decoders():
            found = self._tiff.page(stack, _any_shape, of_plane)
            if not found.has_windows:
                raise InvalidImage(
                    "the slide has a palette, white as zero, or all its planes behind one "
                    "directory; expected grey or RGB: save it again as a tiled TIFF"
                )
            values = zarr.open_array(found.page.aszarr(), mode="r")
            if found.page.axes == "SYX":
                pixels = np.moveaxis(np.asarray(values[(found.samples, *part)]), 0, -1)
            elif found.page.axes == "YXS":
                pixels = np.asarray(values[(*part, found.samples)])
            else:
                pixels = np.asarray(values[part])
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = pixels[:, :, 0]
        decoded = stored(pixels, self._tiff.pixel_size_um)
        return decoded if found.is_of_channel else decoded.with_colour(selection)

    def wells(self) -> tuple[list[str], list[str]] | None:
        named = {one.well for one in self.fields if one.well}
        if not named:
            return None
        rows = {well.rstrip(string.digits) for well in named}
        columns = {well.lstrip(string.ascii_uppercase) for well in named}
        return sorted(rows, key=lambda row: (len(row), row)), sorted(columns)

    def close(self) -> None:
        self._tiff.close()
        self._view.release()
        self._map.close()

    def _selection(
        self, field: int, t: int, z: int, selection: Selection
    ) -> tuple[Stack, Selection]:
        """The stack, and the selection of a plane by its number among those of a channel."""
        stack, position = self._images[field]
        if len(stack.channel_names) > 1 and selection.channel is None:
            stack.selected(Selection(plane=0))  # raises ChoiceRequired, with the channels' names
            raise ChoiceRequired("the TIFF holds several channels", "choose one with `channel`")
        number = 0
        for axis, size in zip(stack.axes, stack.numbers.shape, strict=True):
            if axis != CHANNELS:
                at = {SLICES: z, POSITIONS: position}.get(axis, t)
                number = number * size + (at if size > 1 else 0)
        return stack, Selection(selection.channel, plane=number)


def _length(stack: Stack, axis: str) -> int:
    """Along an axis; pages without a description are time points."""
    known = (CHANNELS, SLICES, POSITIONS)
    lengths = [
        size
        for own, size in zip(stack.axes, stack.numbers.shape, strict=True)
        if (own if own in known else TIMES) == axis and size > 1
    ]
    if len(lengths) > 1:
        raise InvalidImage(
            f"it has several axes of the same kind ({stack.axes}); expected time points, slices "
            "and channels: save it as OME-TIFF"
        )
    return lengths[0] if lengths else 1


def _distinct(fields: list[Field]) -> tuple[Field, ...]:
    """Fields whose names are told apart: some programs call all by the name of the file."""
    names = [(one.well, one.name) for one in fields]
    if len(set(names)) == len(names):
        return tuple(fields)
    return tuple(
        Field(one.well, str(number), one.n_t, one.n_z) for number, one in enumerate(fields)
    )
