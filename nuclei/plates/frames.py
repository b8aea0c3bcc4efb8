"""One chosen frame of a source: read, and made of several slices where that was asked for."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from nuclei.errors import InvalidImage
from nuclei.imaging.decoding import Decoded
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame, frame_of_decoded
from nuclei.plates.places import Place
from nuclei.plates.sources import Source
from nuclei.quality.measures import detail


def read_place(source: Source, field: int, place: Place, options: FrameOptions) -> Frame:
    """Read a frame, by the rules of single files.

    Args:
        source: an open one.
        field: number of its position.
        place: of the frame, one of `nuclei.plates.places.places`.
        options: how it is to be read.

    Raises:
        InvalidImage, ChoiceRequired, FrameTooLarge, InvalidOption: as
            `nuclei.imaging.images.read_frame`.
    """
    decoded = _decoded(source, field, place, options)
    return replace(frame_of_decoded(decoded, options), name=place.name)


def _decoded(source: Source, field: int, place: Place, options: FrameOptions) -> Decoded:
    t = place.t or 0
    if not isinstance(place.z, str):
        return source.plane(field, t, place.z or 0, options.selection)
    n_z = source.fields[field].n_z

    def slice_at(z: int) -> Decoded:
        return source.plane(field, t, z, options.selection)

    if place.z == "max":
        return _brightest(slice_at, n_z)
    return _sharpest(slice_at, n_z, options)


def _brightest(slice_at: Callable[[int], Decoded], n_z: int) -> Decoded:
    """The largest value over all slices, of which two are in memory."""
    first = slice_at(0)
    pixels = first.pixels.copy()
    for z in range(1, n_z):
        plane = slice_at(z).pixels
        if plane.shape != pixels.shape or plane.dtype != pixels.dtype:
            raise InvalidImage(f"slice {z} differs from the first in size or type: choose slices")
        np.maximum(pixels, plane, out=pixels)
    said = f"it is the maximum of {n_z} slices (--z max)"
    return replace(first, pixels=pixels, warnings=(*first.warnings, said))


def _sharpest(slice_at: Callable[[int], Decoded], n_z: int, options: FrameOptions) -> Decoded:
    """The slice with most detail."""
    best, chosen, most = slice_at(0), 0, -1.0
    for z in range(n_z):
        plane = slice_at(z)
        found = detail(frame_of_decoded(plane, options))
        if found > most:
            best, chosen, most = plane, z, found
    said = f"slice {chosen} of {n_z} is the sharpest and was segmented (--z sharpest)"
    return replace(best, warnings=(*best.warnings, said))
