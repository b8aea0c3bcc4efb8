"""The engine that runs a model's graph in torch, for validation while it trains."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.inference.graph import IMAGE, RANGE, TTA_SUFFIX, Step, has_weights
from nuclei.postprocessing.accumulation import Outputs


class TorchEngine:
    """Runs the modules that are exported as ONNX, chained as `nuclei.inference.graph` says.

    Attributes:
        served: the model, which has no version yet.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        contract: Contract,
        device: str = "cpu",
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Wrap the modules of a graph.

        Args:
            modules: by step, in evaluation mode.
            contract: what the pipeline needs to know about the model.
            device: where the modules run.
            precision: makes the context that networks run in; the default is float32.
        """
        self._modules = {name: module.to(device) for name, module in modules.items()}
        self.served = ServedVersion(contract.family, "0", contract.family, contract)
        self._device = device
        self._precision = precision

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Outputs:
        graphs = self.served.contract.method.graphs
        given = {IMAGE: torch.from_numpy(image), RANGE: torch.from_numpy(intensity)}
        tensors = {name: tensor.to(self._device) for name, tensor in given.items()}
        with torch.inference_mode():
            for step in graphs.all_views if graph.endswith(TTA_SUFFIX) else graphs.one_view:
                made = self._run(step, [tensors[name] for name in step.reads])
                tensors |= zip(step.writes, made, strict=True)
        return {name: tensors[name].cpu().numpy() for name in outputs}

    def _run(self, step: Step, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        module = self._modules[step.file.name]
        if has_weights(step.file):
            with self._precision():
                made = module(*map(_channels_last, tensors))
        else:
            made = module(*tensors)
        return made if isinstance(made, tuple) else (made,)


def _channels_last(tensor: Tensor) -> Tensor:
    """A batch of images in the memory layout that is fastest for convolutions."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
