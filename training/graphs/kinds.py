"""Two networks in one graph: one answers grey images, the other those in colour.

Grey images reach a network as one channel and those in colour as three
(`nuclei.imaging.colour.one_image`), so a batch is of one kind, and an `If` of the graph runs one of
the two. A runtime that is told the shape of the images leaves the other out.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.compose import add_prefix
from torch import Tensor, nn

from nuclei.quality.reference import GROUPS
from training.graphs.step import ExportedStep, GraphStep

# Between the kind and the name that something has in the file of one network.
SEPARATOR = "/"
N_CHANNELS, ONE, ARE_ONE, IS_GREY = "n_channels", "one", "are_one", "is_grey"


class ByKind(nn.Module):
    """A network for grey images and one for those in colour.

    Attributes:
        grey, colour: from images float32 [N, 3, H, W] to logits float32 [N, K, H, W].
    """

    def __init__(self, grey: nn.Module, colour: nn.Module) -> None:
        super().__init__()
        self.grey = grey
        self.colour = colour

    def forward(self, images: Tensor) -> Tensor:
        """The logits of images of both kinds, as crops are: three equal channels are grey."""
        of_grey = (images == images[:, :1]).flatten(1).all(1)
        kinds = [(of_grey, self.grey), (~of_grey, self.colour)]
        answers = [network(images[chosen]) for chosen, network in kinds if chosen.any()]
        order = torch.cat([chosen.nonzero()[:, 0] for chosen, _ in kinds])
        return torch.cat(answers)[order.argsort()]


class KindsModule(nn.Module):
    """The modules of a step for both kinds, of which the channels of the image choose one."""

    def __init__(self, grey: nn.Module, colour: nn.Module) -> None:
        super().__init__()
        self.grey = grey
        self.colour = colour

    def forward(self, image: Tensor) -> Any:
        return (self.grey if image.shape[1] == 1 else self.colour)(image)


@dataclass(frozen=True, eq=False)
class KindsStep(GraphStep):
    """A step for each kind, in one file.

    Attributes:
        grey, colour: the steps, of the same names and shapes.
    """

    grey: ExportedStep
    colour: ExportedStep

    @classmethod
    def of(cls, grey: ExportedStep, colour: ExportedStep) -> "KindsStep":
        """The step of two, whose examples have three channels."""
        module = KindsModule(grey.module, colour.module)
        return cls(colour.file, module, colour.example, grey=grey, colour=colour)

    def write(self, path: Path) -> None:
        onnx.save(joined(self.grey.model, self.colour.model), path)

    def parity(self, path: Path) -> dict[str, float]:
        """As of every step, for the kind that differs more."""
        in_grey = tuple(image[:, :1] for image in self.grey.example)
        of_grey = replace(self.grey, example=in_grey).parity(path)
        return {name: max(of_grey[name], own) for name, own in self.colour.parity(path).items()}


def joined(grey: ModelProto, colour: ModelProto) -> ModelProto:
    """One file of two, which take the same image and give the same tensor.

    Weights, and the casts of those in half precision, stay outside of the branches: onnxruntime
    1.24 gives wrong answers where it folds an `If` whose branches hold them.

    Args:
        grey, colour: files that `ExportedStep` makes.
    """
    (image,), (answer,) = colour.graph.input, colour.graph.output
    nodes: list[NodeProto] = []
    weights = [numpy_helper.from_array(np.array([1]), ONE)]
    branches = []
    for kind, model in zip(GROUPS, (grey, colour), strict=True):
        named = add_prefix(model, kind + SEPARATOR, rename_nodes=False, rename_inputs=False).graph
        held = {entry.name for entry in named.initializer}
        inside = [node for node in named.node if not held.issuperset(node.input)]
        nodes += [node for node in named.node if held.issuperset(node.input)]
        weights += named.initializer
        branches.append(helper.make_graph(inside, kind, [], named.output))
    of_grey, of_colour = branches
    nodes += [
        helper.make_node("Shape", [image.name], [N_CHANNELS], start=1, end=2),
        helper.make_node("Equal", [N_CHANNELS, ONE], [ARE_ONE]),
        helper.make_node("Squeeze", [ARE_ONE], [IS_GREY]),
        helper.make_node(
            "If", [IS_GREY], [answer.name], then_branch=of_grey, else_branch=of_colour
        ),
    ]
    graph = helper.make_graph(nodes, colour.graph.name, [image], [answer], weights)
    model = helper.make_model(
        graph, opset_imports=colour.opset_import, ir_version=colour.ir_version
    )
    onnx.checker.check_model(model)
    return model


def is_by_kind(model: ModelProto) -> bool:
    """Whether a file of a network was joined of two."""
    return any(node.op_type == "If" for node in model.graph.node)
