"""The engine that runs a detector in torch, for validation while it trains."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.inference.pipeline import TTA_SUFFIX, Inference
from training.graphs.detection import MergeMasks, Split
from training.graphs.maps import Preprocess


class DetectionEngine:
    """Runs the steps that are exported as ONNX, in torch."""

    def __init__(
        self,
        detector: nn.Module,
        contract: Contract,
        device: str = "cpu",
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Wrap a detector.

        Args:
            detector: as `training.graphs.detection` takes it.
            contract: what the pipeline needs to know of it.
            device: where it runs.
            precision: makes the context it runs in; the default is float32.
        """
        self._detector = detector
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
        with torch.inference_mode():
            pixels = torch.from_numpy(image).to(self._device)
            whole = Preprocess()(pixels, torch.from_numpy(intensity).to(self._device))
            if graph.endswith(TTA_SUFFIX):
                *views, side = Split()(whole)
                found = MergeMasks()(side, *(part for view in views for part in self._found(view)))
            else:
                found = self._found(whole)
        answered = (tensor.cpu().numpy() for tensor in found)
        return Inference(dict(zip(outputs, answered, strict=True)), "0")

    def _found(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with self._precision():
            boxes, scores, masks = self._detector(image.to(memory_format=torch.channels_last))
        return boxes, scores, masks
