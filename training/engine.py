"""The engine that runs a network in torch, for validation while it trains."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nuclei.contract import Contract
from nuclei.pipeline import TTA_SUFFIX, Inference
from training.graphs import Merge, Network, Preprocess, Views


class TorchEngine:
    """Runs the steps that are exported as ONNX, in torch."""

    def __init__(
        self,
        network: nn.Module,
        contract: Contract,
        device: str = "cpu",
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Wrap a network.

        Args:
            network: logits from images, in evaluation mode.
            contract: what the pipeline needs to know of it.
            device: where it runs.
            precision: makes the context the network runs in; the default is float32.
        """
        self._network = Network(network)
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
        timeout_s: float | None,
    ) -> Inference:
        tta = graph.endswith(TTA_SUFFIX)
        with torch.inference_mode():
            pixels = torch.from_numpy(image).to(self._device)
            batch = Preprocess()(pixels, torch.from_numpy(intensity).to(self._device))
            batch = Views()(batch) if tta else batch
            with self._precision():
                maps = self._network(batch.contiguous(memory_format=torch.channels_last))
            merged = Merge()(maps)[0] if tta else maps
        return Inference({"MAPS": merged.cpu().numpy()}, "0")
