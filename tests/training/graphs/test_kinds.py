"""Two networks in one file, for grey images and for those in colour."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.training.networks import levels, small, used
from training.graphs.kinds import ByKind
from training.graphs.maps import example_images, map_modules, map_steps
from training.graphs.weights import holds_two_networks, read_weights

GREY = example_images()[:, :1]
COLOUR = example_images()
AXES = ("views", "channels", "32*rows", "32*columns")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return used(small())


@pytest.fixture(scope="module")
def both() -> ByKind:
    return ByKind(network(0), network(1))


@pytest.fixture(scope="module")
def file(both: ByKind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / "network.onnx"
    step = map_steps(both)["network"]
    step.write(path)
    assert step.parity(path)["network"] <= 1
    return path


def answered(file: Path, image: Tensor, **dims: int) -> Tensor:
    """What onnxruntime answers, told the lengths of some axes."""
    options = onnxruntime.SessionOptions()
    for name, length in dims.items():
        options.add_free_dimension_override_by_name(name, length)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(["MAPS"], {"IMAGE": image.numpy()})
    return torch.from_numpy(found).int()


@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("told", [(), ("channels",), AXES], ids=["nothing", "channels", "all"])
def test_each_image_is_answered_by_the_network_of_its_kind(
    both: ByKind, file: Path, image: Tensor, told: tuple[str, ...]
) -> None:
    """Also where a runtime knows the shape, and leaves out the other network."""
    own, other = (both.grey, both.colour) if image is GREY else (both.colour, both.grey)
    dims = dict(zip(AXES, image.shape, strict=True))
    found = answered(file, image, **{name: dims[name] for name in told})
    assert (found - levels(own, image)).abs().max() <= 1
    assert (found - levels(other, image)).abs().max() > 50
    with torch.inference_mode():
        assert torch.equal(map_modules(both)["network"](image).int(), levels(own, image))


def test_a_batch_of_both_kinds_is_answered_in_its_order(both: ByKind) -> None:
    of_grey, in_colour = GREY.expand(-1, 3, -1, -1), COLOUR
    with torch.inference_mode():
        for images in (of_grey, in_colour):
            assert both(images).shape == (2, 3, *images.shape[2:])
        mixed = both(torch.stack([in_colour[0], of_grey[0], in_colour[1], of_grey[1]]))
        torch.testing.assert_close(mixed[1::2], both.grey(of_grey))
        torch.testing.assert_close(mixed[::2], both.colour(in_colour))


def test_both_networks_are_read_back(both: ByKind, file: Path, tmp_path: Path) -> None:
    assert holds_two_networks(file)
    read = ByKind(small(), small())
    read_weights(read, file)
    assert (levels(read.grey, GREY) - levels(both.grey, GREY)).abs().max() <= 1
    assert (levels(read.colour, COLOUR) - levels(both.colour, COLOUR)).abs().max() <= 1
    single = tmp_path / "network.onnx"
    map_steps(both.grey)["network"].write(single)
    assert not holds_two_networks(single)
