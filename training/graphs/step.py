"""One step of a graph: a torch module, its ONNX file, and the parity of the two."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.inference.graph import SCORES, StepFile
from nuclei.inference.parity import differences
from nuclei.postprocessing.accumulation import Outputs

OPSET = 20
TRACED_OPSET = 17
# Of the name of a weight in the file that is kept in half precision.
HALF_SUFFIX = "_float16"


@dataclass(frozen=True, eq=False)
class GraphStep(ABC):
    """A module, an example of its input, and the names of its file and tensors.

    Attributes:
        file: the names.
        module: float32, in evaluation mode, on the CPU.
        example: its inputs, on the CPU.
    """

    file: StepFile
    module: nn.Module
    example: tuple[Tensor, ...]

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the ONNX file."""

    def run(self, *inputs: Tensor) -> list[NDArray[Any]]:
        """The module's outputs as arrays, in the order of the file's."""
        with torch.inference_mode():
            outputs = self.module(*inputs)
        return [
            output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))
        ]

    def parity(self, path: Path) -> dict[str, float]:
        """Largest absolute difference between the file and the module on the example, by step."""
        found, expected = self._on_example(path)
        return {
            self.file.name: max(
                float(np.abs(found[tensor].astype(np.float64) - expected[tensor]).max())
                for tensor in self.file.outputs
            )
        }

    def _on_example(self, path: Path) -> tuple[Outputs, Outputs]:
        """Outputs of the file and of the module, by name."""
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        tensors = (tensor.numpy() for tensor in self.example)
        feeds = dict(zip(self.file.inputs, tensors, strict=True))
        names = self.file.outputs
        found = session.run(list(names), feeds)
        expected = self.run(*self.example)
        return dict(zip(names, found, strict=True)), dict(zip(names, expected, strict=True))


@dataclass(frozen=True, eq=False)
class ExportedStep(GraphStep):
    """A step written by torch's graph exporter.

    Attributes:
        dynamic: axes of each input whose length varies, as `torch.export.Dim`.
        half_weights: its layers' weights are float16 in the file, which halves its size, and
            float32 once loaded, because a runtime folds the casts. A weight differs by one part in
            2,000 at most.
    """

    dynamic: tuple[Mapping[int, Any], ...]
    half_weights: bool = False

    def write(self, path: Path) -> None:
        onnx.save(self.model, path)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The file."""
        with warnings.catch_warnings():
            # Square views share one name for their two equal sides, which the exporter warns about.
            warnings.filterwarnings("ignore", message="# The axis name")
            program = torch.onnx.export(
                self.module.eval(),
                self.example,
                input_names=self.file.inputs,
                output_names=self.file.outputs,
                opset_version=OPSET,
                dynamic_shapes=self.dynamic,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
        # Stack traces from the exporting machine, which no runtime reads.
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


@dataclass(frozen=True, eq=False)
class TracedStep(GraphStep):
    """A step written by the tracing exporter, the only one that knows detectors' operators.

    Attributes:
        dynamic: names of the axes whose length varies, by tensor.
    """

    dynamic: Mapping[str, Mapping[int, str]]

    def write(self, path: Path) -> None:
        with warnings.catch_warnings():
            # It is deprecated, and warns about every shape that torchvision reads.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.module,
                self.example,
                path,
                input_names=self.file.inputs,
                output_names=self.file.outputs,
                opset_version=TRACED_OPSET,
                dynamic_axes=self.dynamic,
                dynamo=False,
            )
        model = onnx.load(path)
        for node in model.graph.node:
            node.doc_string = ""
        onnx.save(model, path)

    def parity(self, path: Path) -> dict[str, float]:
        """As for every step; for nuclei, by tensor (`nuclei.inference.parity.differences`)."""
        found = differences(*self._on_example(path))
        if SCORES in found:
            return {f"{self.file.name}/{tensor}": value for tensor, value in found.items()}
        return {self.file.name: max(found.values())}


def export_steps(steps: Mapping[str, GraphStep], folder: Path) -> dict[str, float]:
    """Write `<step>.onnx` for every step, and compare each with torch on its example.

    Args:
        steps: by file name.
        folder: existing folder that receives the files.

    Returns:
        Largest absolute difference between ONNX and torch in the units of the outputs, by step; of
        nuclei found one by one by step and tensor (`network/BOXES`).
    """
    parity: dict[str, float] = {}
    for step in steps.values():
        path = folder / step.file.filename
        step.write(path)
        parity |= step.parity(path)
    return parity


def _halve_weights(model: onnx.ModelProto) -> None:
    casts = []
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) > 1:
            name, half = weights.name, f"{weights.name}{HALF_SUFFIX}"
            values = onnx.numpy_helper.to_array(weights).astype(np.float16)
            weights.CopyFrom(onnx.numpy_helper.from_array(values, half))
            casts.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
