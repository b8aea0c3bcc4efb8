"""The steps of a U-Net's graph as torch modules, their ONNX files, and the parity of the two."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

OPSET = 20
LEVELS = 255.0
N_VIEWS = 8
ODD_SIZE = (96, 128)


class Preprocess(nn.Module):
    """IMAGE uint16 [H, W, C] and RANGE float32 [2] to INPUT float32 [1, C, H, W] in [0, 1]."""

    def forward(self, image: Tensor, intensity: Tensor) -> Tensor:
        lo, hi = intensity[0], intensity[1]
        # Channels first: onnxruntime is ten times slower over a last dimension of 1.
        values = image.to(torch.float32).permute(2, 0, 1).unsqueeze(0)
        return ((values - lo) / (hi - lo)).clamp(0.0, 1.0)


class Views(nn.Module):
    """INPUT [1, C, S, S] to VIEWS [8, C, S, S]: four rotations, then those of the mirror image."""

    def forward(self, image: Tensor) -> Tensor:
        mirrored = image.flip(3)
        return torch.cat([quarter_turns(side, k) for side in (image, mirrored) for k in range(4)])


class Network(nn.Module):
    """IMAGE float32 [N, C, H, W] in [0, 1] to MAPS uint8 [N, K, H, W], 255 is probability 1.

    Bytes, for the maps travel from here on: to the next step, to the gateway.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(three_channels(image))
        return to_uint8(torch.sigmoid(logits.float()) * LEVELS)


class Merge(nn.Module):
    """MAPS_IN uint8 [8, K, S, S] of the views to their mean, and the foreground's deviation.

    MAPS uint8 [1, K, S, S], 255 is probability 1; DISAGREEMENT uint8 [S, S], the standard
    deviation over the views of map 0, 255 is 1.
    """

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        straight = torch.cat([quarter_turns(maps[k : k + 1], -k) for k in range(4)])
        mirrored = torch.cat([quarter_turns(maps[4 + k : 5 + k], -k) for k in range(4)]).flip(3)
        turned = torch.cat([straight, mirrored]).to(torch.float32)
        mean = turned.mean(dim=0, keepdim=True)
        deviation = (turned[:, 0] - mean[:, 0]).square().mean(dim=0).sqrt()
        return to_uint8(mean), to_uint8(deviation)


@dataclass(frozen=True, eq=False)
class Step:
    """One ONNX file of the graph: its module, an example input, names, and dynamic axes.

    Its layers' weights may be float16 in the file, which is half as large then, and float32 once
    it is loaded: a runtime folds the casts. A weight differs by one part in 2,000 at most.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: tuple[Mapping[int, Any], ...]
    half_weights: bool = False

    def run(self, *inputs: Tensor) -> list[NDArray[Any]]:
        with torch.inference_mode():
            outputs = self.module(*inputs)
        return [
            output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))
        ]

    @cached_property
    def model(self) -> onnx.ModelProto:
        """Its ONNX graph."""
        with warnings.catch_warnings():
            # Square views share one name for their two equal sides, which the exporter remarks on.
            warnings.filterwarnings("ignore", message="# The axis name")
            program = torch.onnx.export(
                self.module.eval(),
                self.example,
                input_names=self.inputs,
                output_names=self.outputs,
                opset_version=OPSET,
                dynamic_shapes=self.dynamic,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
        # Stack traces of the exporting machine, and nothing that a runtime reads.
        del model.metadata_props[:]
        for node in [*model.graph.node, *(node for f in model.functions for node in f.node)]:
            del node.metadata_props[:]
            node.doc_string = ""
        for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
            del value.metadata_props[:]
        del model.graph.value_info[:]
        if self.half_weights:
            _halve_weights(model)
        return model


def _halve_weights(model: onnx.ModelProto) -> None:
    casts = []
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) > 1:
            name, half = weights.name, f"{weights.name}_float16"
            values = onnx.numpy_helper.to_array(weights).astype(np.float16)
            weights.CopyFrom(onnx.numpy_helper.from_array(values, half))
            casts.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


# Steps without weights are always the same: exported once.
@cache
def preprocess_step() -> Step:
    """The first step of every graph."""
    height, width = Dim("height", min=1, max=2**14), Dim("width", min=1, max=2**14)
    return Step(
        Preprocess(),
        (torch.randint(0, 4096, (64, 96, 3)).to(torch.uint16), torch.tensor([7.0, 900.0])),
        ("IMAGE", "RANGE"),
        ("INPUT",),
        ({0: height, 1: width, 2: Dim("channels", min=1, max=4)}, {}),
    )


@cache
def views_step() -> Step:
    """The step before a network that takes views as a batch."""
    side = Dim("height", min=1, max=2**14)
    return Step(
        Views(),
        (torch.rand(1, 3, 64, 64),),
        ("INPUT",),
        ("VIEWS",),
        ({1: Dim("channels", min=1, max=4), 2: side, 3: side},),
    )


@cache
def merge_step() -> Step:
    """The step after a network of maps that was given views."""
    height, channels = Dim("height", min=1, max=2**14), Dim("channels", min=1, max=4)
    return Step(
        Merge(),
        (torch.randint(0, 256, (N_VIEWS, 3, 64, 64)).to(torch.uint8),),
        ("MAPS_IN",),
        ("MAPS", "DISAGREEMENT"),
        ({1: channels, 2: height, 3: height},),
    )


def unet_steps(network: nn.Module) -> dict[str, Step]:
    """The steps of a U-Net's graph by file name.

    Args:
        network: logits from images, in evaluation mode, float32, on the CPU.
    """
    channels, views = Dim("channels", min=1, max=4), Dim("views", min=1, max=64)
    rows, columns = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
    return {
        "preprocess": preprocess_step(),
        "tta": views_step(),
        "network": Step(
            Network(network),
            (torch.rand(2, 3, *ODD_SIZE),),
            ("IMAGE",),
            ("MAPS",),
            ({0: views, 1: channels, 2: 32 * rows, 3: 32 * columns},),
            # Changes one of 255 levels in 0.3 % of the pixels.
            half_weights=True,
        ),
        "merge": merge_step(),
    }


def export_steps(steps: Mapping[str, Step], folder: Path) -> dict[str, float]:
    """Write `<step>.onnx` for every step, and compare each with torch on its example.

    Args:
        steps: by file name; modules float32, on the CPU.
        folder: existing folder that receives the files.

    Returns:
        Largest absolute difference between ONNX and torch, by step, in the units of its outputs.
    """
    differences = {}
    for name, step in steps.items():
        path = folder / f"{name}.onnx"
        onnx.save(step.model, path)
        differences[name] = _difference(step, path)
    return differences


def _difference(step: Step, path: Path) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in zip(step.inputs, step.example, strict=True)}
    found = session.run(list(step.outputs), feeds)
    expected = step.run(*step.example)
    return max(
        float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
        for a, b in zip(found, expected, strict=True)
    )


def three_channels(image: Tensor) -> Tensor:
    """[N, C, H, W], C 1 or 3, as [N, 3, H, W]: grey is taken three times, each colour once."""
    channels = torch.arange(3, device=image.device) * (image.shape[1] - 1) // 2
    return image.index_select(1, channels)


def quarter_turns(image: Tensor, count: int) -> Tensor:
    """Rotate [N, C, S, S] by quarter turns, without the operators that ONNX lacks."""
    match count % 4:
        case 1:
            return image.transpose(2, 3).flip(2)
        case 2:
            return image.flip(2).flip(3)
        case 3:
            return image.transpose(2, 3).flip(3)
    return image


def to_uint8(levels: Tensor) -> Tensor:
    """Levels 0-255 as bytes, rounded."""
    return levels.round().clamp(0.0, LEVELS).to(torch.uint8)
