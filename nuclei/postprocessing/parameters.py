"""What the parameters of methods may be: training tunes them, `contract.json` carries them."""

from typing import Annotated

from pydantic import ConfigDict, Field

# A probability, a score, a part of something.
Fraction = Annotated[float, Field(ge=0, le=1)]
# A number of pixels.
Area = Annotated[int, Field(ge=0, le=2**31)]

# A field more, a number in quotes and NaN are faults of the file.
CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
