"""The engine that runs a network in torch, for validation while it trains."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.inference.pipeline import TTA_SUFFIX, Inference
from nuclei.postprocessing.accumulation import Outputs
from training.graphs.maps import Merge, Network, Preprocess, Views


class TorchEngine:
    """Runs the steps that are exported as ONNX, in torch.

    Attributes:
        network_step: the step of the network.
    """

    network_step: ClassVar[type[nn.Module]] = Network

    def __init__(
        self,
        network: nn.Module,
        contract: Contract,
        device: str = "cpu",
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Wrap a network.

        Args:
            network: in evaluation mode, as its step takes it.
            contract: what the pipeline needs to know of it.
            device: where it runs.
            precision: makes the context the network runs in; the default is float32.
        """
        self._network = self.network_step(network)
        self._contract = contract
        self._device = device
        self._precision = precision

    async def contract(self, model: str) -> Contract:
        return self._contract

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Inference:
        tta = graph.endswith(TTA_SUFFIX)
        with torch.inference_mode():
            pixels = torch.from_numpy(image).to(self._device)
            batch = Preprocess()(pixels, torch.from_numpy(intensity).to(self._device))
            batch = Views()(batch) if tta else batch
            with self._precision():
                answers = self._network(batch.contiguous(memory_format=torch.channels_last))
            return Inference(self.outputs(answers, tta), "0")

    def outputs(self, answers: Tensor, tta: bool) -> Outputs:
        """What the graph gives, from what the network answers to the image or to its views."""
        maps = Merge()(answers)[0] if tta else answers
        return {"MAPS": maps.cpu().numpy()}
