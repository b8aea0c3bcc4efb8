"""What a caller sets in place of what a model was tuned to."""

import math
from dataclasses import dataclass
from typing import Self

from nuclei.errors import InvalidOption
from nuclei.quoting import quoted

MAX_AREA_PX = 2**31
MIN_DIAMETER_PX, MAX_DIAMETER_PX = 2, 4096


@dataclass(frozen=True)
class Adjustments:
    """What a caller sets in place of what a model was tuned to; None leaves it as it was tuned.

    Attributes:
        threshold: the foreground probability, or of models that find nuclei one by one the score,
            from which something belongs to a nucleus; above 0 and below 1. Lower finds more, and
            more that is none.
        min_area_px: nuclei of fewer pixels of the frame are left out; 0 to 2**31.
        diameter_px: what nuclei are expected to measure across, pixels of the frame, 2 to 4096. The
            model sees the frame resampled, so that they have the size that it was tuned to.
    """

    threshold: float | None = None
    min_area_px: int | None = None
    diameter_px: float | None = None

    def __post_init__(self) -> None:
        """Raises InvalidOption for what nothing can be segmented with."""
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise InvalidOption(
                f"threshold is {self.threshold:g}; expected a probability above 0 and below 1, "
                "such as 0.4"
            )
        if self.min_area_px is not None and not 0 <= self.min_area_px <= MAX_AREA_PX:
            raise InvalidOption(
                f"min_area is {quoted(self.min_area_px)}; expected a number of pixels from 0 to "
                f"{MAX_AREA_PX}"
            )
        diameter = self.diameter_px
        if diameter is not None and not MIN_DIAMETER_PX <= diameter <= MAX_DIAMETER_PX:
            raise InvalidOption(
                f"diameter is {diameter:g}; expected what nuclei measure across, pixels of the "
                f"frame, from {MIN_DIAMETER_PX} to {MAX_DIAMETER_PX}"
            )

    @classmethod
    def of_text(cls, threshold: str = "", min_area: str = "", diameter: str = "") -> Self:
        """Adjustments as they are typed; what is empty is not given.

        Args:
            threshold: `0.4`.
            min_area: a whole number of pixels.
            diameter: pixels.

        Raises:
            InvalidOption: text that is not what is expected.
        """
        if min_area and not (min_area.isascii() and min_area.isdecimal() and len(min_area) < 12):
            raise InvalidOption(
                f"min_area={quoted(min_area)} is no whole number of pixels; expected one from 0, "
                "such as 50"
            )
        return cls(
            _number("threshold", threshold, "0.4"),
            int(min_area) if min_area else None,
            _number("diameter", diameter, "30"),
        )


def _number(name: str, text: str, example: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InvalidOption(f"{name}={quoted(text)} is no number; expected one such as {example}")
    return number


AS_TUNED = Adjustments()
