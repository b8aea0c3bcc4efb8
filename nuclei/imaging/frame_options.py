"""How a frame is to be read, as its caller says."""

import math
from dataclasses import dataclass
from typing import Any, Self

from nuclei.errors import InvalidOption
from nuclei.imaging.selection import EVERYTHING, Selection
from nuclei.quoting import quoted
from nuclei.results.coordinates import PixelSize

# An atom, and a fingertip: areas stay numbers that every format holds.
MIN_PIXEL_SIZE_UM, MAX_PIXEL_SIZE_UM = 1e-4, 1e4


@dataclass(frozen=True)
class FrameOptions:
    """How a frame is to be read; what is None is left to the frame itself.

    Attributes:
        selection: the plane and the channel that are segmented.
        pixel_size_um: (y, x), micrometres, 0.0001 to 10000.
        intensity_range: (lo, hi), the values that become black and white for the network, in the
            units of the frame.
        intensity_percentiles: (lo, hi), the same as percentiles of all pixels, 0 to 100; not
            together with intensity_range.
    """

    selection: Selection = EVERYTHING
    pixel_size_um: PixelSize | None = None
    intensity_range: tuple[float, float] | None = None
    intensity_percentiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Raises InvalidOption for what no frame can be read with."""
        size = self.pixel_size_um
        if size is not None and not (
            len(size) == 2 and all(MIN_PIXEL_SIZE_UM <= side <= MAX_PIXEL_SIZE_UM for side in size)
        ):
            raise InvalidOption(
                f"pixel size is {tuple(size)}; expected (y, x) in micrometres, both above 0: from "
                f"{MIN_PIXEL_SIZE_UM:g} to {MAX_PIXEL_SIZE_UM:g}"
            )
        _check_ascending("intensity_range", self.intensity_range, -math.inf, math.inf)
        _check_ascending("intensity_percentiles", self.intensity_percentiles, 0, 100)
        if self.intensity_range is not None and self.intensity_percentiles is not None:
            raise InvalidOption(
                "intensity_range and intensity_percentiles are both given; choose one of them"
            )

    @classmethod
    def of_text(
        cls,
        channel: str = "",
        plane: str = "",
        project: str = "",
        pixel_size: str = "",
        intensity_range: str = "",
        intensity_percentiles: str = "",
    ) -> Self:
        """Options as they are typed, on a command line or in a query; what is empty is not given.

        Args:
            channel: name or number of a channel.
            plane: number of a plane.
            project: `max`.
            pixel_size: `0.325`, or `y,x`, micrometres.
            intensity_range, intensity_percentiles: `lo,hi`.

        Raises:
            InvalidOption: text that is not what is expected.
        """
        if plane and not (plane.isascii() and plane.isdecimal() and len(plane) < 10):
            raise InvalidOption(
                f"plane={quoted(plane)} is no number; expected one from 0, such as 3"
            )
        sides = _numbers("pixel_size", pixel_size, "0.325, or y,x such as 0.5,0.325", (1, 2))
        chosen: Any = project or None  # Selection says what is expected
        return cls(
            Selection(channel or None, int(plane) if plane else None, chosen),
            PixelSize(y=sides[0], x=sides[-1]) if sides else None,
            _pair("intensity_range", intensity_range),
            _pair("intensity_percentiles", intensity_percentiles),
        )


def _check_ascending(
    name: str, given: tuple[float, float] | None, least: float, most: float
) -> None:
    if given is None:
        return
    lo, hi = given
    if not (math.isfinite(lo) and math.isfinite(hi) and least <= lo < hi <= most):
        within = f", from {least:g} to {most:g}" if math.isfinite(most) else ""
        raise InvalidOption(f"{name} is {(lo, hi)}; expected two numbers, lo below hi{within}")


def _pair(name: str, text: str) -> tuple[float, float] | None:
    numbers = _numbers(name, text, "lo,hi such as 0,99.5", (2,))
    return (numbers[0], numbers[1]) if numbers else None


def _numbers(name: str, text: str, form: str, counts: tuple[int, ...]) -> list[float]:
    """The numbers of a text, none for an empty one."""
    if not text:
        return []
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        raise InvalidOption(f"{name}={quoted(text)} cannot be read; expected {form}")
    return numbers


AS_IT_IS = FrameOptions()
