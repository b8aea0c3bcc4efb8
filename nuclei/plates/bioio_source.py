"""CZI, ND2 and LIF as sources, through bioio and its readers (the extra `bioio`)."""

from pathlib import Path
from typing import Any

import numpy as np

from nuclei.errors import ChoiceRequired, MissingPrerequisite
from nuclei.imaging.decoding import Decoded
from nuclei.imaging.selection import Selection, chosen_channel, described_channels
from nuclei.plates.places import Field
from nuclei.plates.sources import BIOIO_SUFFIXES, Window, stored
from nuclei.results.coordinates import PixelSize

WHOLE: Window = (slice(None), slice(None))


class BioioSource:
    """The planes of a microscope's own file; each scene is a position."""

    def __init__(self, path: Path) -> None:
        try:
            from bioio import BioImage
            from bioio_base.exceptions import UnsupportedFileFormatError
        except ModuleNotFoundError as error:
            raise _lacking(path) from error
        try:
            self._image: Any = BioImage(path)
        except UnsupportedFileFormatError as error:
            raise _lacking(path) from error
        self._scenes: tuple[str, ...] = tuple(self._image.scenes)
        self.fields = tuple(self._field(number) for number in range(len(self._scenes)))

    def plane(self, field: int, t: int, z: int, selection: Selection) -> Decoded:
        return self.window(field, t, z, selection, WHOLE)

    def size(self, field: int) -> tuple[int, int]:
        self._image.set_scene(field)
        return int(self._image.dims.Y), int(self._image.dims.X)

    def window(self, field: int, t: int, z: int, selection: Selection, part: Window) -> Decoded:
        self._image.set_scene(field)
        names = tuple(str(name) for name in self._image.channel_names or ("",))
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
        axes = "YXS" if "S" in self._image.dims.order else "YX"
        plane = self._image.get_image_dask_data(axes, T=t, C=channel, Z=z)
        return stored(np.asarray(plane[part].compute()), self._pixel_size(), warnings)

    def wells(self) -> None:
        return None

    def close(self) -> None:
        self._image = None

    def _field(self, number: int) -> Field:
        self._image.set_scene(number)
        name = self._scenes[number] if len(self._scenes) > 1 else ""
        return Field("", name, int(self._image.dims.T), int(self._image.dims.Z))

    def _pixel_size(self) -> PixelSize | None:
        sizes = self._image.physical_pixel_sizes
        if not sizes.Y or not sizes.X:
            return None
        return PixelSize(y=float(sizes.Y), x=float(sizes.X))


def _lacking(path: Path) -> MissingPrerequisite:
    package = BIOIO_SUFFIXES[path.suffix.lower()]
    return MissingPrerequisite(
        f"{path}: {path.suffix[1:].upper()} files are read by bioio and {package}, which are not "
        "installed: run `pip install 'nuclei-serving[bioio]'`, or export the file as OME-TIFF"
    )
