"""Whether a model's configuration fits its ONNX file, by the rules of Triton's native backend.

A repository that passes here is one that NVIDIA's container loads. Triton's interpreter runs this
file too, so it needs the standard library only.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# What the onnxruntime in NVIDIA's container of Triton 24.10 reads.
MAX_IR_VERSION = 10
MAX_OPSET = 21

_IR_VERSION, _OPSET_IMPORT = 1, 8
_DOMAIN, _VERSION = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


class TensorInfo(Protocol):
    """A tensor as onnxruntime describes it: `shape` holds names where it is not fixed."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True)
class OnnxVersions:
    """Versions of an ONNX file.

    Attributes:
        ir: version of the file format.
        opset: version of the standard operators; 0 when the file names none.
    """

    ir: int
    opset: int


def read_versions(path: Path) -> OnnxVersions:
    """Read the versions of an ONNX file, one protobuf message, skipping its weights.

    Raises:
        ValueError: the file is not an ONNX file, or is truncated.
        OSError: the file cannot be read.
    """
    ir = opset = 0
    size = path.stat().st_size
    with path.open("rb") as file:
        for field, kind, value in fields(file, size):
            if (field, kind) == (_IR_VERSION, VARINT):
                ir = value
            elif (field, kind) == (_OPSET_IMPORT, BYTES):
                opset = max(opset, _standard_opset(file.read(value)))
            elif kind == BYTES:
                file.seek(value, io.SEEK_CUR)
    if ir == 0:
        raise ValueError("it is not an ONNX file")
    return OnnxVersions(ir, opset)


def misfits(
    config: dict[str, Any],
    versions: OnnxVersions,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> Iterator[str]:
    """What Triton's native backend would refuse, one sentence each.

    Args:
        config: a ModelConfig as JSON, with the field names of the protobuf.
        versions: the versions of the ONNX file.
        inputs: the inputs of the ONNX file.
        outputs: the outputs of the ONNX file.
    """
    if versions.ir > MAX_IR_VERSION:
        yield f"the ONNX file has IR version {versions.ir}; export it with {MAX_IR_VERSION} or less"
    if versions.opset > MAX_OPSET:
        yield f"the ONNX file has opset {versions.opset}; export it with {MAX_OPSET} or less"
    batched = int(config.get("max_batch_size", 0)) > 0
    declared = [tensor["name"] for tensor in config.get("input", [])]
    for info in inputs:
        if info.name not in declared:
            yield f"input '{info.name}' of the ONNX file is missing in the configuration"
    for tensor in config.get("input", []):
        if tensor.get("optional"):
            yield f"input '{tensor['name']}' is optional; ONNX models need all of their inputs"
        yield from _tensor_misfits(f"input '{tensor['name']}'", tensor, inputs, batched, False)
    for tensor in config.get("output", []):
        yield from _tensor_misfits(f"output '{tensor['name']}'", tensor, outputs, batched, True)


def _tensor_misfits(
    what: str, tensor: dict[str, Any], infos: Sequence[TensorInfo], batched: bool, exact: bool
) -> Iterator[str]:
    info = next((info for info in infos if info.name == tensor["name"]), None)
    if info is None:
        names = ", ".join(info.name for info in infos)
        yield f"{what} is not in the ONNX file, which has {names}"
        return
    if tensor.get("reshape"):
        yield f"{what} is reshaped; give it the shape of the ONNX file"
    expected = TRITON_TYPES.get(info.type)
    if expected is None:
        yield f"{what} is {info.type} in the ONNX file, which Triton's backend does not take"
    elif tensor["data_type"] != expected:
        yield f"{what} is {tensor['data_type']}; the ONNX file has {expected}"
    held = [dim if isinstance(dim, int) else -1 for dim in info.shape]
    if batched:
        if not held or held[0] != -1:
            yield f"{what} has a fixed first dimension in the ONNX file; set max_batch_size to 0"
            return
        held = held[1:]
    dims = [int(dim) for dim in tensor.get("dims", [])]
    if not _dims_fit(dims, held, exact):
        yield f"{what} has dims {dims}; the ONNX file has {held}"


def _dims_fit(dims: list[int], held: list[int], exact: bool) -> bool:
    return len(dims) == len(held) and all(
        dim == known or (known == -1 and not exact) for dim, known in zip(dims, held, strict=True)
    )


def _standard_opset(message: bytes) -> int:
    domain, version = b"", 0
    file = io.BytesIO(message)
    for field, kind, value in fields(file, len(message)):
        if (field, kind) == (_VERSION, VARINT):
            version = value
        elif kind == BYTES:
            text = file.read(value)
            domain = text if field == _DOMAIN else domain
    return version if domain in (b"", b"ai.onnx") else 0


def fields(file: io.BufferedIOBase, size: int) -> Iterator[tuple[int, int, int]]:
    """Number, kind and value of each field up to an offset; the caller consumes what has a length.

    Of bytes the value is that length.
    """
    while file.tell() < size:
        key = _varint(file)
        field, kind = key >> 3, key & 7
        if kind in (VARINT, BYTES):
            value = _varint(file)
        elif kind in (FIXED32, FIXED64):
            value = int.from_bytes(file.read(4 if kind == FIXED32 else 8), "little")
        else:
            raise ValueError("it is not an ONNX file")
        if kind == BYTES and file.tell() + value > size:
            raise ValueError("it is not an ONNX file, or a truncated one")
        yield field, kind, value


def _varint(file: io.BufferedIOBase) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("it is not an ONNX file, or a truncated one")
