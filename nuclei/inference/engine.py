"""The interface of engines, which run the graphs of models, and their answers."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.postprocessing.accumulation import Outputs


@dataclass(frozen=True)
class Inference:
    """What an engine answers for one tile.

    Attributes:
        outputs: the tensors of the graph's method, by name.
        version: the model version that answered.
    """

    outputs: Outputs
    version: str


class Engine(Protocol):
    """Runs the graphs of models: Triton, the same ONNX files in-process, or torch modules."""

    async def contract(self, model: str) -> Contract:
        """The contract of the version served now.

        Raises:
            ModelNotFound, EngineUnavailable.
        """
        ...

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Inference:
        """Run one tile.

        Args:
            graph: name of the graph: a model's, or a model's with the suffix `_tta`.
            outputs: names of the tensors to return.
            image: uint16 [S, S, C], S a multiple of the contract's stride, C 1 or 3.
            intensity: float32 [2], the range [lo, hi] of the whole frame.
            deadline: when the caller gives up.

        Raises:
            ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
        """
        ...
