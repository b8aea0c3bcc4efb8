"""What ONNX files are made of, read without loading them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nuclei.errors import InvalidData
from serving.promotion.onnx_contents import MAX_DEPTH, read_contents
from tests.serving.onnx_models import scaled


def test_operators_and_opset_are_read(tmp_path: Path) -> None:
    path = tmp_path / "scaled.onnx"
    onnx.save(scaled(), path)
    found = read_contents(path)
    assert found.operators == {("", "Add")}
    assert (found.versions.ir, found.versions.opset) == (10, 20)
    assert (found.foreign, found.external) == ([], False)


def test_operators_of_graphs_in_graphs_and_of_functions_are_read(tmp_path: Path) -> None:
    model = scaled()
    inner = helper.make_node("Dropout", ["x"], ["y"], domain="org.other")
    graph = helper.make_graph([inner], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=graph))
    opsets = [helper.make_opsetid("", 20)]
    twice = helper.make_function(
        "ours", "Twice", ["a"], ["b"], [helper.make_node("Mul", ["a", "a"], ["b"])], opsets
    )
    model.functions.append(twice)
    model.graph.node.append(helper.make_node("Twice", ["X"], ["W"], domain="ours"))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    found = read_contents(tmp_path / "x.onnx")
    assert {("", "If"), ("", "Mul"), ("ours", "Twice")} <= found.operators
    assert found.foreign == ["org.other.Dropout"]


@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_weights_in_other_files_are_seen(where: str, tmp_path: Path) -> None:
    model = scaled()
    tensor = onnx.numpy_helper.from_array(np.ones(3, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    if where == "initializer":
        model.graph.initializer.append(tensor)
    else:
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert read_contents(tmp_path / "x.onnx").external


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([], "last", [], [])
    for _ in range(MAX_DEPTH + 2):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["z"], a=graph)], "g", [], [])
    (tmp_path / "x.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(InvalidData, match="nested more than"):
        read_contents(tmp_path / "x.onnx")


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x0a\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(data)
    with pytest.raises(InvalidData, match="not an ONNX file"):
        read_contents(tmp_path / "x.onnx")
