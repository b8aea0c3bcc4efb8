"""The weights of an encoder that was trained on photographs, from a file.

Projects name the same layers differently, but list them in the same order: tensors are taken in
that order, and their shapes have to fit.
"""

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from torch import Tensor, nn

from nuclei.errors import InvalidData, InvalidOption
from nuclei.quoting import quoted, sentence

COUNTER = "num_batches_tracked"


def load_encoder(network: nn.Module, encoder: str, path: Path) -> None:
    """Give a network's encoder the weights in a file.

    The encoder is made to take images in [0, 1], as this project's networks do: what it was trained
    to subtract and divide by becomes a part of its first convolution.

    Args:
        network: of segmentation_models_pytorch; its encoder is changed.
        encoder: its name, a timm backbone as `tu-<name>`.
        path: of a PyTorch file of the same network; what follows the encoder in it is left out.

    Raises:
        InvalidOption: the encoder is no timm backbone.
        InvalidData: the file cannot be read, or is of another network.
    """
    if not isinstance(network.encoder, TimmUniversalEncoder):
        raise InvalidOption(
            f"--encoder-weights needs a timm backbone, as 'tu-<name>'; {quoted(encoder)} is none"
        )
    state = network.encoder.state_dict()
    names = [name for name in state if not name.endswith(COUNTER)]
    weights = _read(path)
    if len(weights) < len(names):
        raise InvalidData(f"{path} holds {len(weights)} tensors, {encoder} has {len(names)}")
    for name, (other, tensor) in zip(names, weights.items(), strict=False):
        if state[name].shape != tensor.shape:
            raise InvalidData(
                f"{path} is not of {encoder}: {other} has the shape {list(tensor.shape)}, where "
                f"{name} has {list(state[name].shape)}"
            )
        state[name] = tensor
    network.encoder.load_state_dict(state)
    _take_unit_range(network.encoder, encoder)


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, in its order, without counters."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: value for name, value in state.items() if not name.endswith(COUNTER)}
        if not all(isinstance(value, Tensor) for value in weights.values()):
            raise ValueError("it holds more than tensors")
    # torch.load raises many kinds for what it did not write.
    except Exception as error:
        raise InvalidData(
            f"{path} cannot be read as weights of PyTorch ({sentence(error)})"
        ) from error
    return weights


def _take_unit_range(encoder: nn.Module, name: str) -> None:
    """Make the first convolution, which a batch norm follows, do the normalisation."""
    config = timm.get_pretrained_cfg(name.removeprefix("tu-"))
    assert config is not None
    mean, std = (torch.tensor(values) for values in (config.mean, config.std))
    modules = [one for one in encoder.modules() if isinstance(one, nn.Conv2d | nn.BatchNorm2d)]
    convolution, norm = modules[:2]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    with torch.no_grad():
        convolution.weight /= std[None, :, None, None]
        norm.running_mean += (convolution.weight.sum(dim=(2, 3)) * mean).sum(dim=1)
