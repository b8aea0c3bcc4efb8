"""Small ONNX models and Triton models made of them."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

Dims = Sequence[int | str]


def scaled(
    dims: Dims = ("n", 4), kind: int = TensorProto.FLOAT, ir_version: int = 10, opset: int = 20
) -> onnx.ModelProto:
    """Y = X + X."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["X", "X"], ["Y"])],
        "scaled",
        [helper.make_tensor_value_info("X", kind, dims)],
        [helper.make_tensor_value_info("Y", kind, dims)],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, ir_version=ir_version, opset_imports=opsets)


def bfloat16s() -> onnx.ModelProto:
    """Y = X as bfloat16."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Cast", ["X"], ["Y"], to=TensorProto.BFLOAT16)],
        "bfloat16s",
        [value("X", TensorProto.FLOAT, ["n", 4])],
        [value("Y", TensorProto.BFLOAT16, ["n", 4])],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def batch_sizes() -> onnx.ModelProto:
    """Y = X + the number of rows that ran together; X float32 [n, 4]."""
    nodes = [
        helper.make_node("Shape", ["X"], ["shape"], start=0, end=1),
        helper.make_node("Cast", ["shape"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["X", "rows"], ["Y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "batch_sizes",
        [value("X", TensorProto.FLOAT, ["n", 4])],
        [value("Y", TensorProto.FLOAT, ["n", 4])],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def sevens() -> onnx.ModelProto:
    """X float32 [n] in rows of seven; fails for other lengths."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 7])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["X", "shape"], ["Y"])],
        "sevens",
        [value("X", TensorProto.FLOAT, ["n"])],
        [value("Y", TensorProto.FLOAT, ["rows", 7])],
        [shape],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def triton_model(
    repository: Path,
    name: str,
    model: onnx.ModelProto | bytes,
    config: str,
    version: int = 1,
) -> Path:
    """Write a model of a repository.

    Args:
        repository: folder of the models.
        name: the model.
        model: its ONNX model, or the bytes of its file.
        config: text of its ModelConfig, but name and backend.
        version: its version.

    Returns:
        Folder of the model.
    """
    folder = repository / name
    (folder / str(version)).mkdir(parents=True)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / str(version) / "model.onnx").write_bytes(data)
    parsed = text_format.Parse(config, ModelConfig(name=name, backend="onnxruntime"))
    (folder / "config.pbtxt").write_text(text_format.MessageToString(parsed))
    return folder


def tensors(
    dims: Sequence[int] = (-1, 4),
    kind: str = "TYPE_FP32",
    out_dims: Sequence[int] | None = None,
    names: tuple[str, str] = ("X", "Y"),
) -> str:
    """The inputs and outputs of a ModelConfig, as text."""
    given = (
        ("input", names[0], dims),
        ("output", names[1], dims if out_dims is None else out_dims),
    )
    return " ".join(
        f'{field} {{ name: "{name}" data_type: {kind} dims: {list(shape)} }}'
        for field, name, shape in given
    )
