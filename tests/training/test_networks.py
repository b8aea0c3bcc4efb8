import pytest
import torch
from torch import nn

from nuclei.errors import InvalidOption
from training.networks import AveragedWeights, build_unet, n_parameters

ENCODERS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "tu-regnetx_004"]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_build_and_keep_the_size(encoder: str) -> None:
    network = build_unet(encoder).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)


def test_the_default_is_small() -> None:
    assert n_parameters(build_unet("tu-regnetx_004")) < 6_200_000


def test_a_timm_backbone_is_an_encoder() -> None:
    assert n_parameters(build_unet("tu-resnet10t")) > 0


@pytest.mark.parametrize("encoder", ["resnet17", "", "tu-no_such_backbone"])
def test_an_unknown_encoder_is_refused(encoder: str) -> None:
    with pytest.raises(InvalidOption, match="encoder"):
        build_unet(encoder)


def test_averaged_weights_follow_the_network() -> None:
    network, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    averaged = AveragedWeights(network, other, decay=0.5)
    nn.init.constant_(network.weight, 3.0)
    for n_updates in range(1, 30):
        averaged.update(network, n_updates)
    assert torch.allclose(averaged.network.weight, network.weight, atol=1e-3)
    assert not averaged.network.training
