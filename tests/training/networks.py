"""Networks that answer as trained ones do, and their answers."""

import torch
from torch import Tensor, nn

from training.graphs.maps import Network, example_images


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


def small(width: int = 8) -> nn.Module:
    """Convolutions with and without a bias and a batch norm, down and up again."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        nn.Sequential(nn.ConvTranspose2d(width, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.ReLU(), nn.BatchNorm2d(6)),
        nn.Conv2d(6, 3, 1),
    )
