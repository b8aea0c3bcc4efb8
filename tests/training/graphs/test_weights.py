"""Weights that are read back from ONNX files."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from nuclei.errors import InvalidData
from nuclei.imaging.images import read_frame
from nuclei.imaging.intensity import intensity_of
from tests.training.networks import levels, small, used
from training.families.unet import UNet, build_network
from training.graphs.maps import example_images, map_modules, map_steps
from training.graphs.weights import read_weights


@pytest.fixture(scope="module")
def shipped(shipped_artifacts: Path) -> Path:
    return shipped_artifacts / "network.onnx"


@pytest.mark.parametrize("name", ["fluorescence", "histology"])
def test_the_shipped_network_answers_as_before_and_can_learn(
    name: str, shipped: Path, request: pytest.FixtureRequest
) -> None:
    frame = read_frame(request.getfixturevalue(name))
    lo, hi = intensity_of(frame).range
    scaled = ((frame.pixels[:128, :128].astype(np.float32) - lo) / (hi - lo)).clip(0, 1)
    image = torch.from_numpy(scaled).permute(2, 0, 1)[None].float()
    (expected,) = onnxruntime.InferenceSession(shipped).run(["MAPS"], {"IMAGE": image.numpy()})
    recipe = UNet(data=(shipped,), parent="unet", parent_files=shipped.parent)
    network = recipe.build().eval()
    network.load_state_dict(recipe.first_weights() or {})
    with torch.inference_mode():
        found = map_modules(network)["network"](image).int()
    assert expected[0, 0].max() > 250
    assert (found - torch.from_numpy(expected).int()).abs().max() <= 1
    of_both_kinds = torch.rand(2, 3, 32, 32)
    of_both_kinds[0] = of_both_kinds[0, 0]
    network(of_both_kinds).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_networks_are_read_back_from_their_files(tmp_path: Path) -> None:
    trained = used(small())
    nn.init.zeros_(trained[3].bias)
    map_steps(trained)["network"].write(tmp_path / "network.onnx")
    read = small()
    read_weights(read, tmp_path / "network.onnx")
    expected = levels(trained, example_images())
    assert expected.float().std() > 1
    assert (levels(read, example_images()) - expected).abs().max() <= 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    map_steps(used(small()))["network"].write(path)
    return path


def test_weights_of_another_network_are_refused(file: Path) -> None:
    with pytest.raises(InvalidData, match="the --encoder that it was trained with") as raised:
        read_weights(small(width=10), file)
    assert "0.0.weight has the shape" in str(raised.value)


def test_a_file_that_answers_otherwise_is_refused(file: Path) -> None:
    changed = onnx.load(file)
    next(node for node in changed.graph.node if node.op_type == "Relu").op_type = "Abs"
    onnx.save(changed, file)
    with pytest.raises(InvalidData, match="of 255 levels otherwise"):
        read_weights(small(), file)


@pytest.mark.parametrize("content", [None, b"no model"])
def test_what_is_no_onnx_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "network.onnx").write_bytes(content)
    with pytest.raises(InvalidData, match="cannot be read as an ONNX file"):
        read_weights(build_network("cnn", ""), tmp_path / "network.onnx")
