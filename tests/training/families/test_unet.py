from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.families.unet import UNet


@pytest.fixture(scope="module")
def neighbours() -> NDArray[np.uint16]:
    """Two nuclei, two pixels apart."""
    labels = np.zeros((64, 64), np.uint16)
    labels[20:40, 10:30], labels[20:40, 32:50] = 1, 2
    return labels


def test_border_weights_add_to_the_loss_between_close_nuclei(
    neighbours: NDArray[np.uint16], tmp_path: Path
) -> None:
    plain, weighted = (UNet(data=tmp_path, loss="bce", border_weight=w) for w in (0.0, 10.0))
    images = torch.rand(1, 3, 64, 64)
    torch.manual_seed(0)
    network = plain.build().train()

    def loss(recipe: UNet, labels: NDArray[np.uint16]) -> float:
        return recipe.loss_of(network, images, recipe.targets(labels)[None]).item()

    one = neighbours * (neighbours == 1)
    assert loss(weighted, neighbours) > loss(plain, neighbours) + 0.1
    assert loss(weighted, one) == pytest.approx(loss(plain, one))
