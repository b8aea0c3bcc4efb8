"""Weights that are read back from ONNX files."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from nuclei.errors import InvalidData
from nuclei.imaging.images import read_frame
from nuclei.imaging.intensity import intensity_of
from training.families.unet import build_network
from training.graphs.maps import Network, example_images, map_steps
from training.graphs.weights import read_weights

SHIPPED = "tu-regnetx_004"


@pytest.fixture(scope="module")
def shipped(shipped_artifacts: Path) -> Path:
    return shipped_artifacts / "network.onnx"


def levels(network: nn.Module, image: Tensor) -> Tensor:
    with torch.inference_mode():
        return Network(network)(image).int()


def used(network: nn.Module) -> nn.Module:
    """A network whose batch norms have seen images; its answers differ from place to place."""
    torch.manual_seed(0)
    network.train()
    for _ in range(3):
        network(torch.rand(2, 3, 64, 64))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
    network.eval()
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight *= 2 / network(example_images()).std()
    return network


@pytest.mark.parametrize("name", ["fluorescence", "histology"])
def test_the_shipped_network_answers_as_before_and_can_learn(
    name: str, shipped: Path, request: pytest.FixtureRequest
) -> None:
    frame = read_frame(request.getfixturevalue(name))
    lo, hi = intensity_of(frame).range
    scaled = ((frame.pixels[:128, :128].astype(np.float32) - lo) / (hi - lo)).clip(0, 1)
    image = torch.from_numpy(scaled).permute(2, 0, 1)[None].float()
    (expected,) = onnxruntime.InferenceSession(shipped).run(["MAPS"], {"IMAGE": image.numpy()})
    network = build_network("unet", SHIPPED)
    read_weights(network, shipped)
    assert expected[0, 0].max() > 250
    assert (levels(network, image) - torch.from_numpy(expected).int()).abs().max() <= 1
    network(torch.rand(1, 3, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def small() -> nn.Module:
    """Convolutions with and without a bias and a batch norm, down and up again."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.ReLU(), nn.BatchNorm2d(6)),
        nn.Conv2d(6, 3, 1),
    )


def test_networks_are_read_back_from_their_files(tmp_path: Path) -> None:
    trained = used(small())
    nn.init.zeros_(trained[3].bias)
    map_steps(trained)["network"].write(tmp_path / "network.onnx")
    read = small()
    read_weights(read, tmp_path / "network.onnx")
    expected = levels(trained, example_images())
    assert expected.float().std() > 1
    assert (levels(read, example_images()) - expected).abs().max() <= 1


def test_weights_of_another_network_are_refused(shipped: Path) -> None:
    with pytest.raises(InvalidData, match="the --encoder that it was trained with") as raised:
        read_weights(build_network("unet", "tu-regnetx_002"), shipped)
    assert "conv.weight has the shape" in str(raised.value)


def test_a_file_that_answers_otherwise_is_refused(shipped: Path, tmp_path: Path) -> None:
    file = onnx.load(shipped)
    next(node for node in file.graph.node if node.op_type == "Relu").op_type = "Abs"
    onnx.save(file, tmp_path / "network.onnx")
    with pytest.raises(InvalidData, match="of 255 levels otherwise"):
        read_weights(build_network("unet", SHIPPED), tmp_path / "network.onnx")


@pytest.mark.parametrize("content", [None, b"no model"])
def test_what_is_no_onnx_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "network.onnx").write_bytes(content)
    with pytest.raises(InvalidData, match="cannot be read as an ONNX file"):
        read_weights(build_network("cnn", ""), tmp_path / "network.onnx")
