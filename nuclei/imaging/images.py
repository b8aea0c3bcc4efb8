"""Frames and label images read from PNG, JPEG, TIFF and OME-TIFF, as arrays of a fixed layout."""

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired, FrameTooLarge, InvalidData, InvalidImage, InvalidOption
from nuclei.imaging.arrays import COLOUR_CHANNELS, channel_names, one_channel, one_plane
from nuclei.imaging.colour import one_image
from nuclei.imaging.decoding import Decoded, File, Header, decode, probe
from nuclei.imaging.frame_options import AS_IT_IS, FrameOptions
from nuclei.imaging.scaling import AS_STORED, Scale, scaled
from nuclei.imaging.selection import (
    COLOURS,
    EVERYTHING,
    ONE_OF_EACH,
    Choices,
    Selection,
    described_channels,
)
from nuclei.results.coordinates import PixelSize

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

# More are no channels but an axis of another kind.
MAX_CHANNELS = 256

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a microscope.

    Attributes:
        pixels: uint8 or uint16 [H, W, C], C is 1 (grey) or 3 (RGB), H and W at least 1.
        pixel_size_um: None when unknown.
        warnings: what was guessed, chosen, dropped or is doubtful, plain sentences.
        scale: from `pixels` to the values of the file or array.
        intensity_range: (lo, hi), the values that are to become black and white for the network;
            None leaves that to `nuclei.imaging.intensity`.
        name: of its file, empty when it came as pixels.
        choices: the channels and planes of its file; one of each when it came as pixels.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    pixel_size_um: PixelSize | None = None
    warnings: tuple[str, ...] = ()
    scale: Scale = AS_STORED
    intensity_range: tuple[float, float] | None = None
    name: str = ""
    choices: Choices = ONE_OF_EACH


@dataclass(frozen=True)
class FrameLimits:
    """The largest frame that is read.

    Attributes:
        max_side_px: height and width, pixels.
        max_pixels: height times width.
        max_bytes: size of the encoded image.
    """

    max_side_px: int = 16384
    max_pixels: int = 16384 * 16384
    max_bytes: int = 2**30

    def check_shape(self, height: int, width: int) -> None:
        """Raises FrameTooLarge over a limit, InvalidImage when a side is zero."""
        if height < 1 or width < 1:
            raise InvalidImage(
                f"the image is {height} x {width} pixels; expected at least 1 x 1: send a frame"
            )
        if max(height, width) > self.max_side_px or height * width > self.max_pixels:
            raise FrameTooLarge(
                f"the image is {height} x {width} pixels; at most {self.max_side_px} per side and "
                f"{self.max_pixels} in all are accepted: crop it or split it into tiles"
            )

    def check_bytes(self, size: int) -> None:
        """Raises FrameTooLarge over the limit."""
        if size > self.max_bytes:
            raise FrameTooLarge(
                f"the encoded image has {size} bytes; at most {self.max_bytes} are accepted: "
                "crop it or compress it"
            )


def probe_frame(
    source: Path | File, limits: FrameLimits = FrameLimits(), selection: Selection = EVERYTHING
) -> Header:
    """Read the header of a frame's file: an upper bound of what `read_frame` returns.

    Nothing is decompressed; what follows the header is not checked, nor the type of the pixels.

    Raises:
        InvalidImage: not an image, or its header is damaged, or says that it is not a single
            plane of a supported kind.
        FrameTooLarge: over a limit.
    """
    return _naming(source, lambda: probe(_load(source, limits), limits.check_shape, selection))


def read_frame(
    source: Path | File, limits: FrameLimits = FrameLimits(), options: FrameOptions = AS_IT_IS
) -> Frame:
    """Read a frame from a file or from its encoded bytes.

    PNG, JPEG, TIFF or OME-TIFF; any integer or float type; grey, RGB, RGBA (alpha is dropped),
    palette, 1 bit (0 becomes 0, 1 becomes 255). Pixels come in the order in which they are stored.
    The pixel size is taken from the metadata where the options give none (docs/formats.md).

    Raises:
        InvalidImage: unreadable, not an image, truncated, zero-size, not numbers.
        ChoiceRequired: several planes or channels (also as the colours of fluorescence) of which
            the options choose none.
        FrameTooLarge: over a limit; found in the header, before anything is decompressed.
        InvalidOption: there is no plane or channel such as the options choose.
    """
    frame = _naming(
        source,
        lambda: frame_of_decoded(_decode(source, limits, options.selection), options, limits),
    )
    return replace(frame, name=source.name) if isinstance(source, Path) else frame


def frame_from_array(
    pixels: NDArray[Any], options: FrameOptions = AS_IT_IS, limits: FrameLimits = FrameLimits()
) -> Frame:
    """Make a frame from an array.

    Args:
        pixels: integers or floats [H, W], [H, W, C] or [C, H, W], or a stack of these, as
            `nuclei.imaging.arrays.one_plane` says. C is 1 (grey), 3 (RGB) or 4 (RGBA, alpha is
            dropped), or any number when a channel is chosen.
        options: how it is to be read.
        limits: the largest frame that is accepted.

    Raises:
        InvalidImage: wrong shape, not numbers that float32 holds.
        ChoiceRequired: several planes or channels of which the options choose none.
        FrameTooLarge: over a limit.
        InvalidOption: there is no plane or channel such as the options choose.
    """
    plane, warnings = one_plane(pixels, options.selection)
    of_plane = replace(options, selection=Selection(options.selection.channel))
    frame = frame_from_plane(plane, of_plane, limits)
    return replace(frame, warnings=(*warnings, *frame.warnings))


def frame_from_plane(
    pixels: NDArray[Any],
    options: FrameOptions = AS_IT_IS,
    limits: FrameLimits = FrameLimits(),
    scale: Scale = AS_STORED,
) -> Frame:
    """Make a frame from one plane, [H, W, C]; else as `frame_from_array`.

    Args:
        pixels: its values, or what stands for them.
        options: how it is to be read.
        limits: the largest frame that is accepted.
        scale: from `pixels` to the values.

    Raises:
        InvalidImage, FrameTooLarge, ChoiceRequired, InvalidOption: as `frame_from_array`.
    """
    options.selection.check_single_plane()
    if pixels.shape[2] > MAX_CHANNELS:
        raise InvalidImage(
            f"the image has {pixels.shape[2]} channels; expected at most {MAX_CHANNELS}: pick one"
        )
    return _frame_of(pixels, options, limits, channel_names(pixels.shape[2]), scale)


def read_labels(source: Path | File, limits: FrameLimits = FrameLimits()) -> NDArray[np.uint32]:
    """Read a label image: uint32 [H, W], 0 is background.

    PNG or TIFF, of 1 bit, integers or floats that hold integers; a palette gives its indices, and
    three equal channels are one.

    Raises:
        InvalidImage: unreadable, not an image, truncated, zero-size, several planes.
        FrameTooLarge: over a limit.
        InvalidData: not labels: lossy, fractions, 1 bit with white as zero, colours, negative or
            above 2**32 - 1.
    """
    return _naming(source, lambda: _labels(_decode(source, limits, EVERYTHING)))


def _naming(source: Path | File, read: Callable[[], T]) -> T:
    try:
        return read()
    except (InvalidImage, InvalidData, InvalidOption) as error:
        if isinstance(source, Path):
            raise type(error)(f"{source}: {error}") from error
        raise


def frame_of_decoded(
    decoded: Decoded, options: FrameOptions, limits: FrameLimits = FrameLimits()
) -> Frame:
    """Make a frame of what a decoder gives, which has selected plane and channel.

    Raises:
        InvalidImage, ChoiceRequired, FrameTooLarge: as `frame_from_array`.
    """
    pixels = decoded.pixels
    if decoded.palette is not None:
        pixels = _coloured(pixels, decoded.palette)
    size = options.pixel_size_um or decoded.pixel_size_um
    # The decoder has selected.
    of_plane = replace(options, selection=EVERYTHING, pixel_size_um=size)
    frame = frame_from_array(pixels, of_plane, limits)
    choices = decoded.choices
    is_grey = frame.pixels.shape[2] == 1
    if choices.channels == COLOURS and is_grey and options.selection.channel is None:
        choices = Choices(planes=choices.planes)  # its colours are all the same, or a tint
    return replace(frame, warnings=(*decoded.warnings, *frame.warnings), choices=choices)


def _coloured(indices: NDArray[Any], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] or [H, W], row by row: numpy makes 8 bytes of each index."""
    pixels = np.empty((*indices.shape, *palette.shape[1:]), np.uint8)
    for row, into in zip(indices, pixels, strict=True):
        into[...] = palette[row]
    return pixels


def _frame_of(
    pixels: NDArray[Any],
    options: FrameOptions,
    limits: FrameLimits,
    names: Sequence[str],
    scale: Scale,
) -> Frame:
    """A frame of one plane [H, W, C]; `names` are those of its channels."""
    height, width, count = pixels.shape
    limits.check_shape(height, width)
    warnings: list[str] = []
    if options.selection.channel is not None:
        pixels, said = one_channel(pixels, options.selection, names)
        warnings.append(said)
    elif count not in (1, 3, 4):
        raise ChoiceRequired(
            f"the image has {described_channels(names)}; expected 1, 3 (RGB) or 4 (RGBA)",
            "choose one with `channel`",
            names,
        )
    elif count == COLOUR_CHANNELS and pixels[:, :, 3].min() != pixels[:, :, 3].max():
        warnings.append(
            "the fourth channel was taken for alpha and left out: choose with `channel`"
        )
    stored, own, doubts = scaled(pixels[:, :, :3])
    warnings.extend(doubts)
    if stored.shape[2] == 3:
        stored, said_of_colours = one_image(stored)
        warnings.extend(said_of_colours)
    frame = Frame(stored, options.pixel_size_um, tuple(warnings), scale.after(own))
    return replace(frame, intensity_range=_asked_range(frame, options))


def _asked_range(frame: Frame, options: FrameOptions) -> tuple[float, float] | None:
    if options.intensity_percentiles is None:
        return options.intensity_range
    lo, hi = np.percentile(frame.pixels, options.intensity_percentiles).tolist()
    # A frame whose percentiles are the same becomes black, as a constant one.
    return frame.scale.value(lo), frame.scale.value(max(hi, lo + 1))


def _labels(decoded: Decoded) -> NDArray[np.uint32]:
    pixels = decoded.pixels
    if decoded.is_lossy:
        raise InvalidData(
            "labels are a JPEG, whose values are not those that were saved; expected numbers of "
            "nuclei: save them again from where they were made, as PNG or TIFF"
        )
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, 0]
    if pixels.dtype == np.bool_:  # a mask; one of several nuclei is found out later
        if decoded.is_turned:
            raise InvalidData(
                "labels are 1 bit with white as zero, of which some programs mean 0 as the nucleus "
                "and some 1; expected 0 for background: save them as uint8"
            )
        pixels = pixels.view(np.uint8)
    if pixels.dtype.kind == "f" and (pixels == np.rint(pixels)).all():
        # Values past the integers of a label are refused below.
        pixels = np.clip(pixels, -1, np.iinfo(np.uint32).max + 1).astype(np.int64)
    if pixels.ndim != 2 or not np.issubdtype(pixels.dtype, np.integer):
        raise InvalidData(
            f"labels are {pixels.dtype} {list(pixels.shape)}; expected integers [height, width], "
            "0 for background and one number per nucleus: save them as uint16 or uint32"
        )
    if int(pixels.min()) < 0 or int(pixels.max()) > np.iinfo(np.uint32).max:
        raise InvalidData(
            f"labels go from {pixels.min()} to {pixels.max()}; expected 0 to 2**32 - 1: "
            "number the nuclei from 1"
        )
    return np.ascontiguousarray(pixels, dtype=np.uint32)


def _decode(source: Path | File, limits: FrameLimits, selection: Selection) -> Decoded:
    return decode(_load(source, limits), limits.check_shape, selection)


def _load(source: Path | File, limits: FrameLimits) -> File:
    if not isinstance(source, Path):
        limits.check_bytes(len(source))
        return source
    try:
        found = source.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, a device has no end
            raise InvalidImage("not a file; expected an image file")
        limits.check_bytes(found.st_size)
        return source.read_bytes()
    except OSError as error:
        raise InvalidImage(f"cannot be read: {error.strerror}") from error
