import torch
from torch import nn

from training.ema import ExponentialMovingAverage


def test_the_average_follows_the_network() -> None:
    network, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    averaged = ExponentialMovingAverage(network, other, decay=0.5)
    nn.init.constant_(network.weight, 3.0)
    for n_updates in range(1, 30):
        averaged.update(n_updates)
    assert torch.allclose(averaged.network.weight, network.weight, atol=1e-3)
    assert not averaged.network.training
