import numpy as np
import torch
from torch import nn

from training.receptive_field import (
    effective_receptive_field,
    figure_of_receptive_field,
    size_px,
    weight_within,
)

IMAGES = torch.rand(3, 3, 80, 80, generator=torch.Generator().manual_seed(0))
REACH_PX = 10


def convolution(weights: torch.Tensor) -> nn.Conv2d:
    """The same float32 [k, k] for every channel."""
    layer = nn.Conv2d(3, 1, len(weights), padding="same", bias=False)
    layer.weight.data[:] = weights
    return layer


def test_the_field_of_a_convolution_is_its_kernel() -> None:
    kernel = torch.tensor([[0.0, 1.0, 0.0], [2.0, -4.0, 0.0], [0.0, 0.0, 3.0]])
    (field,) = effective_receptive_field(convolution(kernel), IMAGES, REACH_PX)
    assert field.shape == (2 * REACH_PX + 1, 2 * REACH_PX + 1)
    middle = field[REACH_PX - 1 : REACH_PX + 2, REACH_PX - 1 : REACH_PX + 2]
    assert np.allclose(middle, kernel.abs().numpy() / 10)
    assert np.isclose(field.sum(), 1)
    assert size_px(field) == 4**0.5


def test_the_field_grows_with_the_layers_as_a_gaussian_does() -> None:
    """Luo et al. 2016, section 2.2: the width grows with the square root of the layers."""
    box = torch.ones(3, 3)
    first = convolution(box)
    more = [nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(8)]
    for layer in more:
        layer.weight.data[:] = box
    (one,) = effective_receptive_field(first, IMAGES, REACH_PX)
    (nine,) = effective_receptive_field(nn.Sequential(first, *more), IMAGES, REACH_PX)
    offsets = np.arange(-REACH_PX, REACH_PX + 1)

    def deviation(field: np.ndarray) -> float:
        return float((field.sum(axis=0) @ offsets**2) ** 0.5)

    assert np.isclose(deviation(nine), 3 * deviation(one))
    assert size_px(one) < size_px(nine) < 19


def test_the_weight_adds_up_to_one_with_the_distance() -> None:
    field = np.zeros((5, 5))
    field[2, 2], field[1, 2], field[4, 4] = 0.5, 0.25, 0.25
    assert weight_within(field).tolist() == [0.5, 0.75, 1.0]


def test_every_map_has_a_panel() -> None:
    network = nn.Conv2d(3, 2, 5, padding=2)
    fields = effective_receptive_field(network, IMAGES, REACH_PX)
    nuclei = [("round", np.ones((7, 9), bool))]
    figure = figure_of_receptive_field(fields, ("foreground", "distance"), nuclei, 4)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("foreground")
    assert titles[1].startswith("distance")
