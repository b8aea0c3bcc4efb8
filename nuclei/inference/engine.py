"""The interface of engines, which run the graphs of models."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nuclei.inference.contract import Contract
from nuclei.inference.deadline import Deadline
from nuclei.inference.graph import with_views
from nuclei.postprocessing.accumulation import Outputs


@dataclass(frozen=True)
class ServedVersion:
    """A model version that an engine runs; a frame has one from its first tile to its last.

    Attributes:
        model: name of the model.
        version: its version.
        graph: name of its graph; that with test-time augmentation is named after it.
        contract: what inference needs to know about it.
    """

    model: str
    version: str
    graph: str
    contract: Contract

    def graph_for(self, tta: bool) -> str:
        """The graph that answers."""
        return with_views(self.graph, tta)


class Engine(Protocol):
    """Runs the graphs of models: Triton, the same ONNX files in-process, or torch modules."""

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Outputs:
        """Run one tile.

        Args:
            graph: name of the graph (`ServedVersion.graph_for`).
            outputs: names of the tensors to return.
            image: uint16 [S, S, C], S a multiple of the contract's stride, C 1 or 3.
            intensity: float32 [2], the range [lo, hi] of the whole frame.
            deadline: when the caller gives up.

        Returns:
            The tensors, by name.

        Raises:
            ModelNotFound, DeadlineExceeded, Overloaded, EngineUnavailable, EngineFailed.
        """
        ...
