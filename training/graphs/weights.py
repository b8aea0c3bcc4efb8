"""The trainable weights of a network, read back from the ONNX file that was made of it.

The exporter has folded each batch norm into the convolution before it, so the file holds their
product alone. Read back, the convolution gets the product, and the batch norm, with mean 0 and
variance 1, a scale of sqrt(1 + eps), which cancels what it divides by, and the bias: together they
answer what they answered before. That holds while batch norms use the statistics that they have
(`training.schedule.Schedule.frozen_statistics`).
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.errors import InvalidData
from nuclei.inference.graph import MAP_NETWORK
from nuclei.quoting import listed, sentence
from training.graphs.kinds import SEPARATOR, is_by_kind
from training.graphs.maps import EXAMPLE_SHAPE, map_steps
from training.graphs.step import HALF_SUFFIX

# In the file names begin with the attribute of `training.graphs.maps.Network`.
PREFIX = "network."
FOLDED = ("Conv", "ConvTranspose")
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
# Answers are bytes, which round either way.
MAX_LEVELS = 1.0

Arrays = Mapping[str, NDArray[np.float32]]


def read_weights(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """The weights of a network that gives maps, of which an ONNX file was made.

    Args:
        network: of the same architecture and encoder, with any weights, on the CPU; it receives
            the weights and is left in evaluation mode. `ByKind` of a file of two networks.
        path: of `network.onnx`.

    Returns:
        Its state.

    Raises:
        InvalidData: the file cannot be read, is of another network, or answers an example by more
            than one of 255 levels otherwise than the network with its weights.
    """
    file = _opened(path)
    arrays = dict(_arrays(file))
    state = network.eval().state_dict()
    biases = _biases(file, network, arrays)
    found = {name: biases[name] for name in state if name in biases}
    found |= {name: arrays[name] for name in state if name in arrays}
    found |= _norms(network, biases, found)
    _refuse_another(path, state, found)
    for name, array in found.items():
        state[name] = torch.from_numpy(array.copy())
    network.load_state_dict(state)
    _check_parity(path, network)
    return state


def holds_two_networks(path: Path) -> bool:
    """Whether an ONNX file is of two networks (`training.graphs.kinds`).

    Raises:
        InvalidData: the file cannot be read.
    """
    return is_by_kind(_opened(path))


def _opened(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    # protobuf's errors share no base class with others.
    except Exception as error:
        raise InvalidData(
            f"{path} cannot be read as an ONNX file ({sentence(error)}); export the model again"
        ) from error


def _arrays(file: onnx.ModelProto) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The numbers in the file, those of the network by the names that they have there."""
    for entry in file.graph.initializer:
        if entry.data_type in FLOATS:
            yield _own_name(entry.name), onnx.numpy_helper.to_array(entry).astype(np.float32)


def _own_name(name: str) -> str:
    """The name that a tensor of the file has in the network."""
    *kind, rest = name.removesuffix(HALF_SUFFIX).split(SEPARATOR, 1)
    return ".".join([*kind, rest.removeprefix(PREFIX)])


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def _biases(
    file: onnx.ModelProto, network: nn.Module, arrays: Arrays
) -> dict[str, NDArray[np.float32]]:
    """What each convolution adds, by the name that a bias of its own would have."""
    given = {
        _own_name(weight): _own_name(bias)
        for node in _nodes(file.graph)
        if node.op_type in FOLDED
        for _, weight, bias, *_ in [(*node.input, "")]
    }
    return {
        # Where nothing is added, the file has no bias.
        f"{name}.bias": arrays.get(
            given[f"{name}.weight"], np.zeros(module.out_channels, np.float32)
        )
        for name, module in network.named_modules()
        if isinstance(module, CONVOLUTIONS) and f"{name}.weight" in given
    }


def _norms(network: nn.Module, biases: Arrays, found: Arrays) -> dict[str, NDArray[np.float32]]:
    """The state of the batch norms that were folded into convolutions."""
    state: dict[str, NDArray[np.float32]] = {}
    modules = dict(network.named_modules())
    for norm, convolution in _convolutions_before_norms(network).items():
        bias = f"{convolution}.bias"
        if f"{norm}.weight" in found or bias not in biases:
            continue
        module = modules[norm]
        assert isinstance(module, nn.BatchNorm2d)
        ones = np.ones(module.num_features, np.float32)
        state |= {
            f"{norm}.weight": ones * np.float32(np.sqrt(1 + module.eps)),
            # A convolution with a bias of its own has been given both.
            f"{norm}.bias": 0 * ones if bias in found else biases[bias],
            f"{norm}.running_mean": 0 * ones,
            f"{norm}.running_var": ones,
        }
    return state


def _convolutions_before_norms(network: nn.Module) -> dict[str, str]:
    """The convolution whose output each batch norm reads, by the names of the modules."""
    made: list[tuple[str, Tensor]] = []
    before: dict[str, str] = {}

    def notes(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: made.append((name, output))

    def looks_up(name: str) -> Callable[..., None]:
        def look_up(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            before.update((name, other) for other, output in made if output is inputs[0])

        return look_up

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, CONVOLUTIONS):
            hooks.append(module.register_forward_hook(notes(name)))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(looks_up(name)))
    try:
        # One image in grey and one in colour, where each kind has a network of its own.
        images = torch.zeros(2, 3, *EXAMPLE_SHAPE)
        images[1, 0] = 1
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return before


def _refuse_another(path: Path, state: Mapping[str, Tensor], found: Arrays) -> None:
    """Raises InvalidData when the file is of another network."""
    # All but the counters of batches.
    learned = [name for name, value in state.items() if value.is_floating_point()]
    problems = [f"it lacks {name}" for name in learned if name not in found]
    problems += [
        f"{name} has the shape {list(array.shape)}, not {list(state[name].shape)}"
        for name, array in found.items()
        if array.shape != tuple(state[name].shape)
    ]
    if problems:
        raise InvalidData(
            f"{path} is not the network that was asked for; name the --architecture and the "
            f"--encoder that it was trained with{listed(problems)}"
        )


def _check_parity(path: Path, network: nn.Module) -> None:
    (levels,) = map_steps(network)[MAP_NETWORK.name].parity(path).values()
    if levels > MAX_LEVELS:
        raise InvalidData(
            f"{path} answers by {levels:.0f} of 255 levels otherwise than the network with its "
            "weights; expected at most one: it is of another network, or no export of training"
        )
