"""The plane and the channel of an array that are segmented."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclei.errors import ChoiceRequired, InvalidImage, InvalidOption
from nuclei.imaging.selection import COLOURS, Selection, chosen_channel

# Red, green, blue and alpha: a last axis of up to so many always holds channels.
COLOUR_CHANNELS = 4
COLOURS_FIRST = (
    "the first axis was taken for red, green and blue: choose one with `channel` if it holds "
    "channels, or with `plane` if it holds planes"
)


def one_plane(pixels: NDArray[Any], selection: Selection) -> tuple[NDArray[Any], tuple[str, ...]]:
    """One plane of an array, with its channels last, and a sentence where they may be planes.

    The shorter of the first and the last axis of a plane holds its channels, and the last one also
    whenever it has up to 4 entries. A stack is longer by one axis, the first; where a plane is
    chosen, an array of three axes with the shorter one first is a stack as well.

    Args:
        pixels: [H, W], [H, W, C] or [C, H, W]; as a stack [P, H, W], [P, H, W, C] or [P, C, H, W].
        selection: chooses the plane.

    Returns:
        [H, W, C], a view unless planes are projected; and warnings.

    Raises:
        InvalidImage: another number of axes.
        ChoiceRequired: a stack of which no plane is chosen.
        InvalidOption: there is no such plane.
    """
    chosen = selection.plane is not None or selection.project is not None
    if pixels.ndim == 4 or (pixels.ndim == 3 and chosen and not _channels_last(pixels)):
        if not chosen and len(pixels) != 1:
            raise ChoiceRequired(
                f"the image has shape {list(pixels.shape)}, a stack of {len(pixels)} planes",
                "choose one with `plane`, or all with `project`",
                planes=len(pixels),
            )
        pixels = pixels.max(axis=0) if selection.project else pixels[_plane(selection, pixels)]
    elif pixels.ndim in (2, 3):
        _plane(selection, pixels[None])
    if pixels.ndim == 2:
        return pixels[:, :, None], ()
    if pixels.ndim != 3:
        raise InvalidImage(
            f"the image has shape {list(pixels.shape)}; expected [height, width], "
            "[height, width, channels] or [channels, height, width]: pick one plane"
        )
    if _channels_last(pixels):
        return pixels, ()
    doubtful = len(pixels) in (3, COLOUR_CHANNELS) and selection.channel is None
    return np.moveaxis(pixels, 0, -1), (COLOURS_FIRST,) * doubtful


def one_channel(
    pixels: NDArray[Any], selection: Selection, names: Sequence[str] = ()
) -> tuple[NDArray[Any], str]:
    """The chosen channel, and a sentence that names it.

    Args:
        pixels: [H, W, C].
        selection: chooses the channel.
        names: of the channels, "" for one without a name; empty when nothing is known of them.

    Returns:
        [H, W, 1], a view.

    Raises:
        InvalidOption: no channel is chosen, or there is no such channel.
    """
    count = pixels.shape[2]
    names = names or channel_names(count)
    number = selection.channel_among(names)
    return pixels[:, :, number : number + 1], chosen_channel(number, names)


def channel_names(count: int) -> tuple[str, ...]:
    """The names of channels of which only the number is known."""
    named = (*COLOURS, "alpha")[:count] if count in (3, COLOUR_CHANNELS) else ()
    return named or ("",) * count


def _plane(selection: Selection, pixels: NDArray[Any]) -> int:
    plane = selection.plane or 0
    if plane >= len(pixels):
        raise InvalidOption(
            f"there is no plane {plane}: the image has {len(pixels)}, counted from 0"
        )
    return plane


def _channels_last(pixels: NDArray[Any]) -> bool:
    first, _, last = pixels.shape
    return bool(last <= COLOUR_CHANNELS or last <= first)
