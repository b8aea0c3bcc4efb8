"""The U-Net family: segmentation_models_pytorch networks by name of their encoder."""

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders import get_encoder_names
from torch import nn

from nuclei.errors import InvalidOption
from training.targets import MAPS

DECODER_CHANNELS = (128, 64, 48, 32, 16)


def build_unet(encoder: str) -> nn.Module:
    """A U-Net with random weights and a light decoder, suited to a CPU.

    Args:
        encoder: a name of segmentation_models_pytorch (`resnet18`, `tu-regnetx_004`), or any
            timm backbone as `tu-<name>`.

    Returns:
        Module: image float32 [N, 3, H, W] in [0, 1], H and W multiples of 32, to logits
        float32 [N, 3, H, W] in the order of `training.targets.MAPS`.

    Raises:
        InvalidOption: no encoder of that name.
    """
    try:
        network: nn.Module = smp.Unet(
            encoder,
            encoder_weights=None,
            decoder_channels=DECODER_CHANNELS,
            classes=len(MAPS),
        )
        return network
    except (KeyError, RuntimeError) as error:
        raise InvalidOption(
            f"encoder {encoder!r} is unknown; expected a timm backbone as 'tu-<name>' or one of "
            f"{', '.join(get_encoder_names())}"
        ) from error


class AveragedWeights:
    """Exponential moving average of a network's weights and batch statistics.

    The averaged network is the one that is validated and exported. Early on the average follows
    quickly: the decay is min(decay, (1 + n) / (10 + n)) after n updates.
    """

    def __init__(self, network: nn.Module, averaged: nn.Module, decay: float) -> None:
        self.network = averaged.eval().requires_grad_(False)
        self.network.load_state_dict(network.state_dict())
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, n_updates: int) -> None:
        decay = min(self._decay, (1 + n_updates) / (10 + n_updates))
        own = self.network.state_dict()
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                own[name].lerp_(value, 1 - decay)
            else:
                own[name].copy_(value)


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
