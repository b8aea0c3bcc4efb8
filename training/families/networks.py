"""Networks that give maps of a whole image, by name of their architecture and encoder."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names
from torch import Tensor, nn
from torch.nn import functional

from nuclei.errors import InvalidOption
from training.data.targets import MAPS

# Light decoders, suited to a CPU; and those of segmentation_models_pytorch, for a deep encoder.
DECODER_CHANNELS = (128, 64, 48, 32, 16)
DEEP_DECODER_CHANNELS = (256, 128, 64, 32, 16)
DEEP = "resnet"
CNN_CHANNELS = 32
CNN_LAYERS = 6


class Fcn(nn.Module):
    """FCN-8s (Long et al. 2015, section 4.2): scores at three strides, enlarged and added."""

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.encoder = get_encoder(encoder, weights=None)
        self.scores = nn.ModuleList(
            nn.Conv2d(channels, len(MAPS), 1) for channels in self.encoder.out_channels[-3:]
        )

    def forward(self, image: Tensor) -> Tensor:
        *_, eighth, sixteenth, last = self.encoder(image)
        at_8, at_16, at_32 = self.scores
        logits: Tensor = at_16(sixteenth) + _enlarged(at_32(last), 2)
        return _enlarged(at_8(eighth) + _enlarged(logits, 2), 8)


class Cnn(nn.Sequential):
    """Plain 3x3 convolutions at full size, each of which sees one pixel further."""

    def __init__(self) -> None:
        channels = (3, *[CNN_CHANNELS] * CNN_LAYERS)
        layers = [
            nn.Sequential(
                nn.Conv2d(taken, given, 3, padding=1, bias=False),
                nn.BatchNorm2d(given),
                nn.ReLU(inplace=True),
            )
            for taken, given in pairwise(channels)
        ]
        super().__init__(*layers, nn.Conv2d(CNN_CHANNELS, len(MAPS), 1))


def _smp(model: Callable[..., nn.Module], **options: object) -> Callable[[str], nn.Module]:
    return partial(model, encoder_weights=None, classes=len(MAPS), **options)


def _unet(model: Callable[..., nn.Module], encoder: str) -> nn.Module:
    deep = encoder.startswith(DEEP)
    channels = DEEP_DECODER_CHANNELS if deep else DECODER_CHANNELS
    return _smp(model, decoder_channels=channels)(encoder)


ARCHITECTURES: dict[str, Callable[[str], nn.Module]] = {
    "unet": partial(_unet, smp.Unet),
    "linknet": _smp(smp.Linknet),
    "fpn": _smp(smp.FPN),
    "unetplusplus": partial(_unet, smp.UnetPlusPlus),
    "deeplabv3plus": _smp(smp.DeepLabV3Plus),
    "fcn": Fcn,
    "cnn": lambda _: Cnn(),
}


def build(architecture: str, encoder: str) -> nn.Module:
    """A network with random weights.

    Args:
        architecture: `unet`, `linknet`, `fpn`, `unetplusplus`, `deeplabv3plus` (those of
            segmentation_models_pytorch), and for comparison `fcn` and `cnn`, which has no encoder.
        encoder: a name of segmentation_models_pytorch (`resnet18` to `resnet152`), or any timm
            backbone as `tu-<name>` (`tu-regnetx_004`).

    Returns:
        Module: image float32 [N, 3, H, W] in [0, 1], H and W multiples of 32, to logits
        float32 [N, 3, H, W] in the order of `training.data.targets.MAPS`.

    Raises:
        InvalidOption: no architecture or encoder of that name, or not together.
    """
    if architecture not in ARCHITECTURES:
        raise InvalidOption(
            f"architecture {architecture!r} is unknown; expected one of {', '.join(ARCHITECTURES)}"
        )
    try:
        return ARCHITECTURES[architecture](encoder)
    except (KeyError, RuntimeError, ValueError) as error:
        raise InvalidOption(
            f"encoder {encoder!r} is unknown or no match for {architecture} ({error}); expected a "
            f"timm backbone as 'tu-<name>' or one of {', '.join(get_encoder_names())}"
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
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        self._real: list[tuple[Tensor, Tensor]] = []
        self._whole: list[tuple[Tensor, Tensor]] = []
        for pair in pairs:
            (self._real if pair[0].is_floating_point() else self._whole).append(pair)

    @torch.no_grad()
    def update(self, n_updates: int) -> None:
        """Take the network's weights in, as they are now."""
        decay = min(self._decay, (1 + n_updates) / (10 + n_updates))
        own, new = (list(tensors) for tensors in zip(*self._real, strict=True))
        # One kernel for all, which is what torch.optim.swa_utils does.
        torch._foreach_lerp_(own, new, 1 - decay)
        for counted, value in self._whole:
            counted.copy_(value)


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _enlarged(maps: Tensor, times: int) -> Tensor:
    return functional.interpolate(maps, scale_factor=times, mode="bilinear")
