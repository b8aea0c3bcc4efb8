"""What travels with a model version: everything inference needs to know besides the graphs."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from nuclei.errors import InvalidData

CONTRACT_FILE = "contract.json"


@dataclass(frozen=True)
class WatershedParameters:
    """How probability maps become nuclei; tuned on validation images.

    Attributes:
        foreground_threshold: a pixel belongs to a nucleus above this probability, in (0, 1).
        h: two neighbouring peaks of the distance map are two nuclei when the lower peak
            stands at least this much above the saddle between them, in [0, 1].
        smoothing_px: standard deviation of the Gaussian smoothing of the distance map, pixels.
        border_weight: how much of the touching-border probability is taken off the distance map.
        min_area_px: smaller objects are discarded, pixels.
        min_score: objects whose mean foreground probability is below this are discarded, in [0, 1].
    """

    foreground_threshold: float = 0.6
    h: float = 0.22
    smoothing_px: float = 1.5
    border_weight: float = 0.75
    min_area_px: int = 8
    min_score: float = 0.8


@dataclass(frozen=True)
class RenderingParameters:
    """How nuclei found one by one become a label image; tuned on validation images.

    Attributes:
        min_score: a nucleus found with a lower score is discarded, in [0, 1].
        overlap: so is one that has more than this part of its pixels in common with surer ones,
            in [0, 1].
        min_area_px: and one with fewer pixels of its own.
    """

    min_score: float = 0.5
    overlap: float = 0.4
    min_area_px: int = 8


@dataclass(frozen=True)
class ConsensusParameters(WatershedParameters):
    """How probability maps and nuclei found one by one are joined; tuned on validation images.

    Attributes:
        min_score: a nucleus with a lower vote is discarded, in [0, 1]: the mean of the score of
            its maps and of its being found, 0 being that of whom does not see it.
        overlap: so is one that has more than this part of its pixels in common with surer ones,
            in [0, 1].
    """

    min_score: float = 0.45
    overlap: float = 0.4


Parameters = WatershedParameters | RenderingParameters | ConsensusParameters


class Method(StrEnum):
    """What a graph gives for a tile, and how nuclei are made of it."""

    WATERSHED = "watershed"
    MASKS = "masks"
    STARS = "stars"
    PROMPTED = "prompted"
    CONSENSUS = "consensus"


PARAMETERS: dict[Method, type[Parameters]] = {
    Method.WATERSHED: WatershedParameters,
    Method.MASKS: RenderingParameters,
    Method.STARS: RenderingParameters,
    Method.PROMPTED: RenderingParameters,
    Method.CONSENSUS: ConsensusParameters,
}


@dataclass(frozen=True)
class Contract:
    """The contract of one model version (`contract.json` beside its ONNX graphs).

    Attributes:
        family: name of the model family, and of its Triton ensemble (`unet`).
        method: of post-processing.
        maps: names of the output maps in channel order; empty where there are none.
        tile_size: side of the largest square tile given to the network, pixels, multiple of stride.
        halo: context each tile keeps around the part that is used, pixels.
        stride: tile sides are multiples of this, pixels.
        pixel_size_um: pixel size of the training images, micrometres; None when unknown.
        postprocessing: parameters of the method.
        validation: scores reached on the validation images, by name (`dsb_score`,
            `dsb_score/histology`, `tta/dsb_score`).
        held_out: names of the validation images, which the model was not trained on.
        training: what the model took (`parameters`, `minutes`, on a GPU `gpu_memory_mb`).
    """

    family: str
    method: Method = Method.WATERSHED
    maps: tuple[str, ...] = ("foreground", "border", "distance")
    tile_size: int = 512
    halo: int = 64
    stride: int = 32
    pixel_size_um: float | None = None
    postprocessing: Parameters = WatershedParameters()
    validation: dict[str, float] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    training: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse a contract.

        Raises:
            InvalidData: not JSON, or a field is missing, unknown or impossible.
        """
        try:
            fields = json.loads(text)
            fields["maps"], fields["held_out"] = tuple(fields["maps"]), tuple(fields["held_out"])
            fields["method"] = Method(fields["method"])
            parameters = PARAMETERS[fields["method"]]
            fields["postprocessing"] = parameters(**fields["postprocessing"])
            contract = cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidData(
                f"{CONTRACT_FILE} cannot be read ({error}); export the model again"
            ) from error
        if contract.tile_size % contract.stride or contract.tile_size <= 2 * contract.halo:
            raise InvalidData(
                f"{CONTRACT_FILE}: tile_size {contract.tile_size} must be a multiple of "
                f"{contract.stride} and exceed twice the halo of {contract.halo}"
            )
        return contract

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `contract.json`; raises InvalidData as `from_json` does, or when it is missing."""
        try:
            return cls.from_json(path.read_bytes())
        except OSError as error:
            raise InvalidData(f"{path} cannot be read: {error.strerror}") from error
