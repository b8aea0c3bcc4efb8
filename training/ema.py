"""Exponential moving average (EMA) of a network's weights."""

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Moving average of a network's weights and batch statistics.

    The averaged network is the one that is validated and exported. Early on the average follows
    quickly: the decay is min(decay, (1 + n) / (10 + n)) after n updates.

    Attributes:
        network: the averaged network, in evaluation mode.
    """

    def __init__(self, network: nn.Module, averaged: nn.Module, decay: float) -> None:
        self.network = averaged.eval().requires_grad_(False)
        self.network.load_state_dict(network.state_dict())
        self._decay = decay
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        self._floats: list[tuple[Tensor, Tensor]] = []
        self._integers: list[tuple[Tensor, Tensor]] = []
        for pair in pairs:
            (self._floats if pair[0].is_floating_point() else self._integers).append(pair)

    @torch.no_grad()
    def update(self, n_updates: int) -> None:
        """Update the average with the network's current weights."""
        decay = min(self._decay, (1 + n_updates) / (10 + n_updates))
        own, new = (list(tensors) for tensors in zip(*self._floats, strict=True))
        # One kernel for all tensors, as in torch.optim.swa_utils.
        torch._foreach_lerp_(own, new, 1 - decay)
        for own_count, value in self._integers:
            own_count.copy_(value)
