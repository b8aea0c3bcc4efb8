from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nuclei.errors import InvalidOption
from training.families.unet import ARCHITECTURES, UNet, build_network
from training.graphs.maps import map_steps
from training.graphs.step import export_steps
from training.job import n_parameters

ENCODERS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "tu-regnetx_004"]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_build_and_keep_the_size(encoder: str) -> None:
    network = build_network("unet", encoder).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("encoder", ["resnet18", "tu-regnetx_004"])
def test_architectures_keep_the_size_and_learn(architecture: str, encoder: str) -> None:
    network = build_network(architecture, encoder)
    logits = network(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 3, 64, 96)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("architecture", ["linknet", "fcn"])
def test_architectures_are_exported(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    differences = export_steps(
        map_steps(build_network(architecture, "tu-regnetx_002").eval()), tmp_path
    )
    assert differences["network"] <= 1  # of 255 levels


def test_the_default_is_small() -> None:
    assert n_parameters(build_network("unet", "tu-regnetx_004")) < 6_200_000


def test_a_timm_backbone_is_an_encoder() -> None:
    assert n_parameters(build_network("unet", "tu-resnet10t")) > 0


@pytest.mark.parametrize("encoder", ["resnet17", "", "tu-no_such_backbone"])
@pytest.mark.parametrize("architecture", ["unet", "fcn"])
def test_an_unknown_encoder_is_refused(architecture: str, encoder: str) -> None:
    with pytest.raises(InvalidOption, match="encoder"):
        build_network(architecture, encoder)


def test_an_encoder_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidOption, match="no match for linknet"):
        build_network("linknet", "mit_b0")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InvalidOption, match="expected one of unet, linknet"):
        build_network("segnet", "resnet18")


@pytest.fixture(scope="module")
def neighbours() -> NDArray[np.uint16]:
    """Two nuclei, two pixels apart."""
    labels = np.zeros((64, 64), np.uint16)
    labels[20:40, 10:30], labels[20:40, 32:50] = 1, 2
    return labels


def test_border_weights_add_to_the_loss_between_close_nuclei(
    neighbours: NDArray[np.uint16], tmp_path: Path
) -> None:
    plain, weighted = (UNet(data=(tmp_path,), loss="bce", border_weight=w) for w in (0.0, 10.0))
    images = torch.rand(1, 3, 64, 64)
    torch.manual_seed(0)
    network = plain.build().train()

    def loss(recipe: UNet, labels: NDArray[np.uint16]) -> float:
        return recipe.loss_of(network, images, recipe.targets(labels)[None]).item()

    one = neighbours * (neighbours == 1)
    assert loss(weighted, neighbours) > loss(plain, neighbours) + 0.1
    assert loss(weighted, one) == pytest.approx(loss(plain, one))
