"""The contract of a model version: all that inference needs to know besides the ONNX graphs."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import from_json

from nuclei.errors import InvalidData
from nuclei.imaging.tiles import TilePlan, plan_tiles
from nuclei.inference.graph import MAPS, TTA_SUFFIX
from nuclei.inference.method import METHODS, WATERSHED, Method, method_named
from nuclei.inference.provenance import DataSet
from nuclei.names import is_name
from nuclei.postprocessing.accumulation import Parameters
from nuclei.postprocessing.parameters import CHECKED
from nuclei.postprocessing.watershed import WatershedParameters
from nuclei.quality.reference import QualityReference
from nuclei.quoting import quoted, sentence

CONTRACT_FILE = "contract.json"
# A million names of held-out images.
MAX_BYTES = 2**26
# In the order of their channels, as the watershed takes them.
MAP_NAMES = ("foreground", "border", "distance")
# What decides the result; in code these have defaults, in a file a default would be a guess.
REQUIRED = ("family", "method", "maps", "tile_size", "halo", "stride", "postprocessing")


def is_family(name: str) -> bool:
    """Whether this may be the name of a family."""
    # What follows a dot is a version (`nuclei.inference.graph.graph_name`).
    return is_name(name) and not name.endswith(TTA_SUFFIX) and "." not in name


def _family(name: str) -> str:
    if not is_family(name):
        raise ValueError(f"{quoted(name)} is no name of a family")
    return name


def _method(name: object) -> Method:
    return method_named(str(name))


def _parameters(given: object, info: ValidationInfo) -> Parameters:
    """Those of the method, which has been read before."""
    if "method" not in info.data:
        raise ValueError("they belong to no method")
    kind: type[Parameters] = info.data["method"].parameters
    # As JSON, because strict pydantic takes no dict of Python for a dataclass.
    return _PARAMETERS[kind].validate_json(json.dumps(given))


def _parameters_or_none(given: object, info: ValidationInfo) -> Parameters | None:
    return None if given is None else _parameters(given, info)


Text = Annotated[str, Field(max_length=1024)]
Numbers = Annotated[dict[Text, float], Field(max_length=1024)]


@dataclass(frozen=True)
class Contract:
    """The contract of one model version (`contract.json` beside its ONNX graphs).

    Attributes:
        family: name of the model family, and of its Triton ensemble (`unet`).
        method: the post-processing method.
        maps: names of the output maps in channel order; empty where there are none.
        tile_size: no tile given to the network has more pixels than a square of this side, pixels,
            multiple of stride.
        halo: context each tile keeps around the part that is used, pixels.
        stride: tile sides are multiples of this, pixels.
        pixel_size_um: pixel size of the training images, micrometres; None when unknown.
        postprocessing: parameters of the method.
        colour_postprocessing: those of frames in colour, where they were tuned apart; None when
            they are the same.
        validation: scores reached on the validation images, by name (`dsb_score`,
            `dsb_score/histology`, `tta/dsb_score`).
        held_out: names of the validation images, which the model was not trained on.
        training: cost of the training (`parameters`, `minutes` with those of what it started from,
            on a GPU `gpu_memory_mb`).
        licence: of the model: that of its code and of its data, SPDX; empty when it is not stated.
        data: what it learned from; empty when it is not stated.
        quality: what the quality of frames is measured against; None when it was not calibrated.
    """

    __pydantic_config__: ClassVar = CHECKED

    family: Annotated[str, AfterValidator(_family)]
    method: Annotated[Method, PlainValidator(_method)] = WATERSHED
    maps: Annotated[tuple[Text, ...], Field(max_length=64)] = MAP_NAMES
    tile_size: Annotated[int, Field(ge=32, le=8192)] = 512
    halo: Annotated[int, Field(ge=0, le=4096)] = 64
    stride: Annotated[int, Field(ge=1, le=1024)] = 32
    pixel_size_um: Annotated[float, Field(gt=0, le=1000)] | None = None
    postprocessing: Annotated[Parameters, PlainValidator(_parameters)] = field(
        default_factory=WatershedParameters
    )
    colour_postprocessing: Annotated[Parameters | None, PlainValidator(_parameters_or_none)] = None
    validation: Numbers = field(default_factory=dict)
    held_out: Annotated[tuple[Text, ...], Field(max_length=2**20)] = ()
    training: Numbers = field(default_factory=dict)
    licence: Text = ""
    data: Annotated[tuple[DataSet, ...], Field(max_length=1024)] = ()
    quality: QualityReference | None = None

    @property
    def parameters(self) -> dict[str, Parameters]:
        """The parameters of the method, of grey frames and of those in colour."""
        colour = self.colour_postprocessing or self.postprocessing
        return {"grey": self.postprocessing, "colour": colour}

    @property
    def thresholds(self) -> dict[str, float]:
        """What `Adjustments.threshold` replaces, of grey frames and of those in colour."""
        return {group: one.threshold for group, one in self.parameters.items()}

    @property
    def min_areas_px(self) -> dict[str, int]:
        """What `Adjustments.min_area_px` replaces, of grey frames and of those in colour."""
        return {group: one.min_area_px for group, one in self.parameters.items()}

    @property
    def diameters_px(self) -> dict[str, float]:
        """What nuclei measure across in most frames that it was calibrated with, pixels.

        The diameter of a circle with the median of the frames' median areas, of grey frames and of
        those in colour; empty when it was not calibrated.
        """
        groups = {} if self.quality is None else self.quality.groups
        return {
            group: math.sqrt(4 / math.pi * frames.features["median_area_px"].quantile(0.5))
            for group, frames in groups.items()
            if "median_area_px" in frames.features
        }

    def plan(self, height: int, width: int, *, tta: bool = False) -> TilePlan:
        """The tiles of a frame of this size, pixels; square where the graph needs it."""
        square = tta or self.method.square_tiles
        return plan_tiles(height, width, self.tile_size, self.halo, self.stride, square=square)

    def to_json(self) -> str:
        """The text of its file; raises InvalidData as `from_json` would of the same."""
        fields = {
            **vars(self),
            "method": self.method.name,
            "postprocessing": asdict(self.postprocessing),
            "colour_postprocessing": (
                None if self.colour_postprocessing is None else asdict(self.colour_postprocessing)
            ),
            "data": [asdict(one) for one in self.data],
            "quality": None if self.quality is None else asdict(self.quality),
        }
        text = json.dumps(fields, sort_keys=True)
        self.from_json(text)
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> "Contract":
        """Parse a contract.

        Raises:
            InvalidData: not JSON, or a field is missing, unknown or impossible.
        """
        if len(text) > MAX_BYTES:
            raise InvalidData(
                f"{CONTRACT_FILE} has {len(text)} bytes; expected at most {MAX_BYTES}: train or "
                "export the model again"
            )
        try:
            contract = _CONTRACT.validate_json(text)
            missing = [name for name in REQUIRED if name not in from_json(text)]
        except (ValidationError, InvalidData) as error:
            raise InvalidData(
                f"{CONTRACT_FILE} cannot be used: {_reason(error)}; export the model again"
            ) from None
        if missing:
            raise InvalidData(f"{CONTRACT_FILE} lacks {', '.join(missing)}; export the model again")
        if contract.tile_size % contract.stride or contract.tile_size <= 2 * contract.halo:
            raise InvalidData(
                f"{CONTRACT_FILE}: tile_size {contract.tile_size} must be a multiple of "
                f"{contract.stride} and exceed twice the halo of {contract.halo}"
            )
        if MAPS in contract.method.outputs and contract.maps != MAP_NAMES:
            raise InvalidData(
                f"{CONTRACT_FILE}: maps are {quoted(', '.join(contract.maps))}; the method "
                f"{contract.method.name} expects {', '.join(MAP_NAMES)}, in this order"
            )
        return contract

    @classmethod
    def read(cls, path: Path) -> "Contract":
        """Read `contract.json`; raises InvalidData as `from_json` does, or when it is missing."""
        try:
            with path.open("rb") as file:
                return cls.from_json(file.read(MAX_BYTES + 1))
        except OSError as error:
            raise InvalidData(f"{path} cannot be read: {error.strerror}") from error


# Made once: it takes milliseconds.
_CONTRACT = TypeAdapter(Contract)
_PARAMETERS: dict[type[Parameters], TypeAdapter[Parameters]] = {
    method.parameters: TypeAdapter(method.parameters) for method in METHODS.values()
}


def _reason(error: ValidationError | InvalidData) -> str:
    """The first thing that is wrong."""
    if isinstance(error, InvalidData):
        return str(error)
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field_name = ".".join(map(str, first["loc"]))
    return sentence(f"{field_name}: {first['msg']}" if field_name else first["msg"])
