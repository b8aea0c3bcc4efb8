"""Which version of a model a name means: written by whoever promotes, read by whoever serves.

It travels in the parameters of the model's plain ensemble (`unet`), so that every gateway learns of
it from Triton.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from nuclei.errors import InvalidData
from nuclei.names import MAX_VERSION
from nuclei.postprocessing.parameters import CHECKED, Fraction
from nuclei.quoting import sentence

MAX_BYTES = 4096

Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]


@dataclass(frozen=True)
class Routing:
    """Which version answers the callers of a model.

    Attributes:
        champion: the version that its name means.
        challenger: a version that is on trial; None without one.
        shadow: share of the frames that the challenger segments as well, after the answer, 0 to 1.
        canary: share of the callers whom the challenger answers, 0 to 1.
    """

    __pydantic_config__: ClassVar = CHECKED

    champion: Version
    challenger: Version | None = None
    shadow: Fraction = 0.0
    canary: Fraction = 0.0

    def to_json(self) -> str:
        return to_json(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "Routing":
        """Parse a routing; raises InvalidData where it is none."""
        try:
            if len(text) > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
            return _ROUTING.validate_json(text)
        except (ValidationError, ValueError) as error:
            raise InvalidData(
                f"the routing of a model cannot be used: {sentence(error)}; export the model again"
            ) from None


_ROUTING = TypeAdapter(Routing)
