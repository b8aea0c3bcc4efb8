"""The contract of a model version: all that inference needs to know besides the ONNX graphs."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from nuclei.errors import InvalidData
from nuclei.inference.method import WATERSHED, Method, method_named
from nuclei.postprocessing.accumulation import Parameters
from nuclei.postprocessing.watershed import WatershedParameters

CONTRACT_FILE = "contract.json"


@dataclass(frozen=True)
class Contract:
    """The contract of one model version (`contract.json` beside its ONNX graphs).

    Attributes:
        family: name of the model family, and of its Triton ensemble (`unet`).
        method: the post-processing method.
        maps: names of the output maps in channel order; empty where there are none.
        tile_size: side of the largest square tile given to the network, pixels, multiple of stride.
        halo: context each tile keeps around the part that is used, pixels.
        stride: tile sides are multiples of this, pixels.
        pixel_size_um: pixel size of the training images, micrometres; None when unknown.
        postprocessing: parameters of the method.
        validation: scores reached on the validation images, by name (`dsb_score`,
            `dsb_score/histology`, `tta/dsb_score`).
        held_out: names of the validation images, which the model was not trained on.
        training: cost of the training (`parameters`, `minutes`, on a GPU `gpu_memory_mb`).
    """

    family: str
    method: Method = WATERSHED
    maps: tuple[str, ...] = ("foreground", "border", "distance")
    tile_size: int = 512
    halo: int = 64
    stride: int = 32
    pixel_size_um: float | None = None
    postprocessing: Parameters = field(default_factory=WatershedParameters)
    validation: dict[str, float] = field(default_factory=dict)
    held_out: tuple[str, ...] = ()
    training: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        fields = {
            **vars(self),
            "method": self.method.name,
            "postprocessing": asdict(self.postprocessing),
        }
        return json.dumps(fields, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse a contract.

        Raises:
            InvalidData: not JSON, or a field is missing, unknown or impossible.
        """
        try:
            fields = json.loads(text)
            fields["maps"], fields["held_out"] = tuple(fields["maps"]), tuple(fields["held_out"])
            fields["method"] = method = method_named(fields["method"])
            fields["postprocessing"] = method.parameters(**fields["postprocessing"])
            contract = cls(**fields)
        except (ValueError, KeyError, TypeError, InvalidData) as error:
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
