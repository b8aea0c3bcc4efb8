"""The references of a model version: an image of each kind, and what the version must answer to it.

Grey images and those in colour may have a network of their own, and parameters of post-processing.
Training writes `reference-grey.npz` and `reference-colour.npz` beside the ONNX files, where it has
held-out images of that kind, answered by the torch modules. Whoever serves the files compares with
them: before a promotion, and again in each server.
"""

import asyncio
import io
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nuclei.errors import InvalidData
from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import intensity_of
from nuclei.inference import graph
from nuclei.inference.contract import Contract
from nuclei.inference.deadline import NEVER
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.pipeline import segment
from nuclei.postprocessing.accumulation import Outputs
from nuclei.quality.reference import GROUPS, Group
from nuclei.quoting import quoted, sentence

REFERENCE_FILES: Mapping[Group, str] = {kind: f"reference-{kind}.npz" for kind in GROUPS}
SIDE_PX = 256
# Ten times a thousand nuclei with their masks from both graphs.
MAX_BYTES = 2**27
MAX_HEADER_BYTES = 10_000

IMAGE, RANGE, LABELS = graph.IMAGE, graph.RANGE, "LABELS"
ONE_VIEW, ALL_VIEWS = "one_view", "all_views"

# What reading a damaged zip raises, and this module for arrays that are none of a reference.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, RuntimeError, SyntaxError, zipfile.BadZipFile),
    *(zlib.error, lzma.LZMAError, tokenize.TokenError),
)

# The type of each array, and its number of axes.
_ARRAYS: Mapping[str, tuple[type[np.generic], int]] = {**graph.TENSORS, LABELS: (np.uint32, 2)}


@dataclass(frozen=True, eq=False)
class Reference:
    """An image and the answers to it.

    Attributes:
        image: uint16 [S, S, C], one tile of the model, C 1 or 3.
        intensity: float32 [2], the range [lo, hi] of the image.
        one_view: the tensors of the model's method (`nuclei.inference.method.Method.outputs`) by
            name, by the graph that looks at the image as it is.
        all_views: the same by the graph with test-time augmentation.
        labels: uint32 [S, S], 0 is background: the nuclei of the image as a whole frame, without
            test-time augmentation.
    """

    image: NDArray[np.uint16]
    intensity: NDArray[np.float32]
    one_view: Outputs
    all_views: Outputs
    labels: NDArray[np.uint32]

    @classmethod
    async def of(cls, image: NDArray[np.uint16], engine: Engine, served: ServedVersion) -> Self:
        """What an engine answers: torch modules, or ONNX files of which nothing else is known.

        Args:
            image: uint16 [S, S, C] as `tile_of` cuts it.
            engine: runs the model's graphs.
            served: the model version that is to answer.

        Raises:
            ModelNotFound, InvalidData, EngineUnavailable, EngineFailed: as the engine does.
        """
        frame = Frame(image)
        intensity = intensity_of(frame).range
        outputs = served.contract.method.outputs
        one_view, all_views = [
            await engine.infer(served.graph_for(tta), outputs, image, intensity, NEVER)
            for tta in (False, True)
        ]
        labels = (await segment(frame, engine, served)).labels
        return cls(image, intensity, one_view, all_views, labels)

    @property
    def frame(self) -> Frame:
        """The image as a frame, whose labels are `labels`."""
        return Frame(self.image)

    @property
    def kind(self) -> Group:
        """Whether the image is grey or in colour."""
        return _kind_of(self.image)

    def write(self, folder: Path) -> None:
        """Write its file, that of its kind in `REFERENCE_FILES`."""
        arrays: dict[str, NDArray[Any]] = {
            IMAGE: self.image,
            RANGE: self.intensity,
            LABELS: self.labels,
        }
        for view, outputs in ((ONE_VIEW, self.one_view), (ALL_VIEWS, self.all_views)):
            arrays |= {f"{view}.{name}": tensor for name, tensor in outputs.items()}
        # Engines give views with their axes in any order; the file has rows.
        rows = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        np.savez_compressed(folder / REFERENCE_FILES[self.kind], allow_pickle=False, **rows)

    @classmethod
    def read(cls, folder: Path, kind: Group, contract: Contract) -> Self:
        """Read a reference of a model.

        Args:
            folder: of the model's files.
            kind: of the image.
            contract: of the model.

        Raises:
            InvalidData: it is missing, a link or too large, or not the reference of such a model.
        """
        path = folder / REFERENCE_FILES[kind]
        try:
            arrays = _read_arrays(path, contract)
            _check(arrays, kind, contract)
        except _UNREADABLE as error:
            raise InvalidData(
                f"{path} is no reference of a {contract.method.name} model ({sentence(error)}); "
                "train the model again, or register it again with all of its files"
            ) from error
        one_view, all_views = [
            {name: arrays[f"{view}.{name}"] for name in contract.method.outputs}
            for view in (ONE_VIEW, ALL_VIEWS)
        ]
        return cls(arrays[IMAGE], arrays[RANGE], one_view, all_views, arrays[LABELS])


def read_references(folder: Path, contract: Contract) -> list[Reference]:
    """The references of a model, grey first: one, or one of each kind.

    Raises:
        InvalidData: it has none, or `Reference.read` refuses one.
    """
    kinds = [kind for kind, name in REFERENCE_FILES.items() if (folder / name).exists()]
    if not kinds:
        raise InvalidData(
            f"{folder.name} has neither {' nor '.join(REFERENCE_FILES.values())}; train the model "
            "again, or register it again with all of its files"
        )
    return [Reference.read(folder, kind, contract) for kind in kinds]


def write_references(
    images: Sequence[NDArray[np.uint8] | NDArray[np.uint16]],
    engine: Engine,
    served: ServedVersion,
    folder: Path,
) -> None:
    """Write what an engine answers to the first image of each kind.

    Args:
        images: [H, W, C] each, C 1 or 3; at least one.
        engine: runs the model's graphs.
        served: the model version that is to answer.
        folder: of the model's files.

    Raises:
        ModelNotFound, InvalidData, EngineUnavailable, EngineFailed: as the engine does.
    """
    first_of_kind = {_kind_of(image): image for image in reversed(images)}
    for image in first_of_kind.values():
        tile = tile_of(image, served.contract)
        asyncio.run(Reference.of(tile, engine, served)).write(folder)


def tile_of(
    pixels: NDArray[np.uint8] | NDArray[np.uint16], contract: Contract
) -> NDArray[np.uint16]:
    """The middle of an image as one tile of a model: about `SIDE_PX` a side, mirrored if smaller.

    Args:
        pixels: [H, W, C].
        contract: of the model.

    Returns:
        uint16 [S, S, C].
    """
    stride = contract.stride
    side = max(stride, min(SIDE_PX, contract.tile_size) // stride * stride)
    height, width, _ = pixels.shape
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    middle = pixels[top : top + side, left : left + side]
    missing = [(0, side - length) for length in middle.shape[:2]]
    return np.pad(middle.astype(np.uint16), [*missing, (0, 0)], "symmetric")


def _kind_of(image: NDArray[Any]) -> Group:
    # By the channels, as the graph chooses its network: a part of a stained image may lack colours.
    return "grey" if image.shape[2] == 1 else "colour"


def _read_arrays(path: Path, contract: Contract) -> dict[str, NDArray[Any]]:
    """The arrays of the file, each of its type; raises one of `_UNREADABLE`."""
    if path.is_symlink() or not path.is_file():
        raise ValueError("there is no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    wanted = [IMAGE, RANGE, LABELS]
    wanted += [
        f"{view}.{name}" for view in (ONE_VIEW, ALL_VIEWS) for name in contract.method.outputs
    ]
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sorted(member.filename for member in members) != sorted(
            f"{name}.npy" for name in wanted
        ):
            raise ValueError(f"expected the arrays {', '.join(wanted)}")
        if sum(member.file_size for member in members) > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES} bytes")
        return {name: _array(name, archive.read(f"{name}.npy")) for name in wanted}


def _array(name: str, data: bytes) -> NDArray[Any]:
    """An array from the bytes of its file, which is of the type of its tensor: never a pickle."""
    kind, axes = _ARRAYS[name.rpartition(".")[2]]
    file = io.BytesIO(data)
    read_header = _HEADERS.get(npy.read_magic(file))
    if read_header is None:
        raise ValueError(f"{name} has an unknown form")
    shape, fortran_order, dtype = read_header(file, max_header_size=MAX_HEADER_BYTES)
    rest = memoryview(data)[file.tell() :]
    if dtype != kind or len(shape) != axes or fortran_order:
        raise ValueError(f"{name} is {quoted(str(dtype))} with {len(shape)} axes")
    if min(shape) < 0 or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"{name} has {len(rest)} bytes, which its shape {quoted(shape)} has not")
    return np.frombuffer(rest, dtype).reshape(shape)


def _check(arrays: Mapping[str, NDArray[Any]], kind: Group, contract: Contract) -> None:
    """Raises ValueError when the arrays do not fit each other, the kind or the model."""
    height, width, channels = arrays[IMAGE].shape
    fits_tile = (
        height == width and 0 < height <= contract.tile_size and not height % contract.stride
    )
    if not fits_tile or channels not in (1, 3) or _kind_of(arrays[IMAGE]) != kind:
        raise ValueError(f"{IMAGE} has the shape {arrays[IMAGE].shape}, no {kind} tile of it")
    intensity = arrays[RANGE]
    if intensity.shape != (2,) or not np.isfinite(intensity).all() or intensity[0] >= intensity[1]:
        raise ValueError(f"{RANGE} is {quoted(intensity.tolist())}; expected two rising numbers")
    if arrays[LABELS].shape != (height, width):
        raise ValueError(f"{LABELS} has the shape {arrays[LABELS].shape}; expected that of {IMAGE}")
    for view in (ONE_VIEW, ALL_VIEWS):
        outputs = {name: arrays[f"{view}.{name}"] for name in contract.method.outputs}
        maps = outputs.pop(graph.MAPS, None)
        if maps is not None and maps.shape != (1, len(contract.maps), height, width):
            raise ValueError(f"{graph.MAPS} has the shape {maps.shape}")
        if len({len(tensor) for tensor in outputs.values()}) > 1:
            raise ValueError("its nuclei have not as many places as scores and shapes")
        if any(not np.isfinite(tensor).all() for tensor in outputs.values()):
            raise ValueError("it has numbers that are not finite")


_HEADERS: Mapping[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
