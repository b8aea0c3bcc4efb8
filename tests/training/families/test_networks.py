from pathlib import Path

import pytest
import torch
from torch import nn

from nuclei.errors import InvalidOption
from training.families.networks import ARCHITECTURES, AveragedWeights, build, n_parameters
from training.graphs.maps import export_steps, unet_steps

ENCODERS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "tu-regnetx_004"]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_build_and_keep_the_size(encoder: str) -> None:
    network = build("unet", encoder).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("encoder", ["resnet18", "tu-regnetx_004"])
def test_architectures_keep_the_size_and_learn(architecture: str, encoder: str) -> None:
    network = build(architecture, encoder)
    logits = network(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 3, 64, 96)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("architecture", ["linknet", "fcn"])
def test_architectures_are_exported(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    differences = export_steps(unet_steps(build(architecture, "tu-regnetx_002").eval()), tmp_path)
    assert differences["network"] <= 1  # of 255 levels


def test_the_default_is_small() -> None:
    assert n_parameters(build("unet", "tu-regnetx_004")) < 6_200_000


def test_a_timm_backbone_is_an_encoder() -> None:
    assert n_parameters(build("unet", "tu-resnet10t")) > 0


@pytest.mark.parametrize("encoder", ["resnet17", "", "tu-no_such_backbone"])
@pytest.mark.parametrize("architecture", ["unet", "fcn"])
def test_an_unknown_encoder_is_refused(architecture: str, encoder: str) -> None:
    with pytest.raises(InvalidOption, match="encoder"):
        build(architecture, encoder)


def test_an_encoder_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidOption, match="no match for linknet"):
        build("linknet", "mit_b0")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InvalidOption, match="expected one of unet, linknet"):
        build("segnet", "resnet18")


def test_averaged_weights_follow_the_network() -> None:
    network, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    averaged = AveragedWeights(network, other, decay=0.5)
    nn.init.constant_(network.weight, 3.0)
    for n_updates in range(1, 30):
        averaged.update(n_updates)
    assert torch.allclose(averaged.network.weight, network.weight, atol=1e-3)
    assert not averaged.network.training
