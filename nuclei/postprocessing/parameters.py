"""What the parameters of methods may be: training tunes them, `contract.json` carries them."""

from typing import Annotated

from pydantic import ConfigDict, Field

# A probability, a score, a part of something.
Fraction = Annotated[float, Field(ge=0, le=1)]
# A number of pixels.
Area = Annotated[int, Field(ge=0, le=2**31)]

# A field more, a number in quotes and NaN are faults of the file.
CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def moved_along(fraction: float, tuned: float, asked: float) -> float:
    """A fraction moved as the one beside it, which was tuned to `tuned`, is moved to `asked`.

    0 and 1 stay where they are, and what lies between is stretched in proportion.
    """
    if asked <= tuned:
        return fraction * (asked / tuned)
    return 1 - (1 - fraction) * ((1 - asked) / (1 - tuned))
