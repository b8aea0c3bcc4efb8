"""Which plane and channel of an image is read, where it holds several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nuclei.errors import InvalidOption
from nuclei.quoting import quoted

Projection = Literal["max"]

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Selection:
    """A caller's choice.

    Attributes:
        channel: number, counted from 0, or name; None for all colours of an image in colour, and
            for the only channel of any other.
        plane: number of the focal plane or time point, counted from 0 in the order of the file;
            None for the only one.
        project: "max" for the maximum over all planes of the channel; None for one plane.

    Raises:
        InvalidOption: a value is impossible, or `plane` and `project` are both given.
    """

    channel: int | str | None = None
    plane: int | None = None
    project: Projection | None = None

    def __post_init__(self) -> None:
        if isinstance(self.channel, int) and self.channel < 0:
            raise InvalidOption(f"channel is {self.channel}; channels are counted from 0")
        if self.channel == "":
            raise InvalidOption("channel is empty; expected the number or the name of a channel")
        if self.plane is not None and self.plane < 0:
            raise InvalidOption(f"plane is {self.plane}; planes are counted from 0")
        known = isinstance(self.project, str) and self.project in get_args(Projection)
        if self.project is not None and not known:
            raise InvalidOption(f"project is {quoted(self.project)}; the projection known is 'max'")
        if self.plane is not None and self.project is not None:
            raise InvalidOption("`plane` and `project` are both given; choose one of them")

    def check_single_plane(self) -> None:
        """Raises InvalidOption where another plane is selected than the only one of an image."""
        if self.plane:
            raise InvalidOption(f"plane is {self.plane}; the image has one plane, number 0")

    def channel_among(self, names: Sequence[str]) -> int:
        """The number of the chosen channel; a name goes before a number written as text.

        Args:
            names: of all channels of the image, "" for one without a name.

        Raises:
            InvalidOption: no channel is chosen, or one that the image does not have.
        """
        channel = self.channel
        if isinstance(channel, str):
            if names.count(channel) == 1:
                return names.index(channel)
            alike = [name.casefold() for name in names]
            if alike.count(channel.casefold()) == 1:
                return alike.index(channel.casefold())
            channel = int(channel) if channel.isdecimal() and len(channel) < 10 else None
        if channel is None or channel >= len(names):
            wrong = "" if self.channel is None else f", and no channel is {quoted(self.channel)}"
            remedy = "leave `channel` out" if len(names) == 1 else "choose one with `channel`"
            raise InvalidOption(f"the image has {described_channels(names)}{wrong}: {remedy}")
        return channel


@dataclass(frozen=True)
class Choices:
    """What an image holds to choose from.

    Attributes:
        channels: their names, "" for one without a name.
        planes: of each channel.
    """

    channels: tuple[str, ...] = ("",)
    planes: int = 1


ONE_OF_EACH = Choices()


def described_channels(names: Sequence[str]) -> str:
    """The number of channels and how each is chosen, as in "2 channels (0 'DAPI', 1)"."""
    if len(names) == 1:
        return "one channel"
    listed = [
        f"{number} {quoted(name)}" if name else str(number) for number, name in enumerate(names)
    ]
    shown = ", ".join(listed[:16]) + ", ..." * (len(listed) > 16)
    return f"{len(names)} channels ({shown})"


def chosen_channel(number: int, names: Sequence[str]) -> str:
    """A sentence for `warnings` that says which channel was segmented."""
    name = f" {quoted(names[number])}" if names[number] else ""
    return f"channel {number}{name} of {len(names)} was segmented, as `channel` says"


EVERYTHING = Selection()
