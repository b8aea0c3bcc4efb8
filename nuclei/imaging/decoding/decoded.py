"""What decoders give: the header of an image file, and its pixels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.selection import COLOURS, ONE_OF_EACH, Choices, Selection, chosen_channel
from nuclei.results.coordinates import PixelSize

CheckShape = Callable[[int, int], None]
# A whole file; a view of it, where it is in memory that is shared with another process.
File = bytes | memoryview


@dataclass(frozen=True)
class Header:
    """What an image file says about the pixels to read before any of them is decompressed.

    Attributes:
        height, width: pixels.
        channels: 1 (grey) or 3 (colour, or indices of a palette), alpha not counted.
        itemsize: bytes of one value of a channel.
        decoding_bytes: upper bound of the memory that decoding takes at its peak, with the pixels
            that it returns and without the file.
    """

    height: int
    width: int
    channels: int
    itemsize: int
    decoding_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """Upper bound of the memory that reading the frame takes, the frame included."""
        frame = self.height * self.width * self.channels * self.itemsize
        return self.decoding_bytes + 2 * frame


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pixels as an image file stores them.

    Attributes:
        pixels: [H, W] or [H, W, 3] (RGB), any dtype.
        pixel_size_um: micrometres; None when unknown.
        palette: uint8 [entries, 3], the colours (RGB) that `pixels` index, or [entries] of one
            selected colour; None when there is no palette.
        is_lossy: the values of the pixels are only near to what was saved.
        is_turned: the file counts from white, and the pixels from black.
        warnings: what was guessed, dropped or is doubtful, one sentence each.
        choices: the channels and planes of the file.
    """

    pixels: NDArray[Any]
    pixel_size_um: PixelSize | None = None
    palette: NDArray[np.uint8] | None = None
    is_lossy: bool = False
    is_turned: bool = False
    warnings: tuple[str, ...] = ()
    choices: Choices = ONE_OF_EACH

    def __post_init__(self) -> None:
        if self.palette is None:
            return
        if self.pixels.dtype.kind != "u" or len(self.palette) <= self.pixels.max():
            raise ValueError("its palette does not have the colours of its pixels")

    def with_colour(self, selection: Selection) -> "Decoded":
        """The selected one of its colours; itself where none is selected.

        Raises:
            InvalidOption: it does not have the selected channel.
        """
        in_colour = self.palette is not None or self.pixels.ndim == 3
        names = COLOURS if in_colour else ("",)
        channel = None if selection.channel is None else selection.channel_among(names)
        if not in_colour:
            return self
        decoded = replace(self, choices=Choices(names, self.choices.planes))
        if channel is None:
            return decoded
        warnings = (*self.warnings, chosen_channel(channel, names))
        if self.palette is not None:
            return replace(decoded, palette=self.palette[:, channel], warnings=warnings)
        return replace(decoded, pixels=self.pixels[:, :, channel], warnings=warnings)


def with_samples(pixels: NDArray[Any], samples: slice) -> NDArray[Any]:
    """Some samples of each pixel, moved together within the memory of `pixels`.

    Args:
        pixels: [H, W, S], C-contiguous; its contents are lost.
        samples: which to keep, start and stop.

    Returns:
        [H, W] for one sample, else [H, W, samples].
    """
    height, width, stored = pixels.shape
    count = samples.stop - samples.start
    shape = (height, width, count) if count > 1 else (height, width)
    if count < stored:
        values, row_values = pixels.reshape(-1), width * count
        for row in range(height):
            # A row goes to where earlier ones were, so that no second frame is needed.
            start = row * row_values
            values[start : start + row_values] = pixels[row, :, samples].reshape(-1)
        pixels = values[: height * row_values]
    return pixels.reshape(shape)


def orientation_warning(orientation: int) -> tuple[str, ...]:
    """A sentence where a file asks for its pixels to be turned or flipped, else nothing."""
    if not 2 <= orientation <= 8:  # 0 is common, and means nothing
        return ()
    return (
        f"the file asks for its pixels to be turned or flipped (orientation {orientation}); they "
        "are taken in the order in which they are stored",
    )
