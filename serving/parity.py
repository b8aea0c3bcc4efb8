"""Parity: Triton's answers against those of the same ONNX files in this process."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import intensity_range
from nuclei.imaging.tiles import cut, mirrored
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.parity import differences
from nuclei.postprocessing.accumulation import Outputs
from nuclei.process.ports import free_ports
from serving.engine import TritonEngine
from serving.settings import TRITON_ENVIRONMENT
from serving.triton.server import TritonServer

TIMEOUT_S = 120.0
MAX_MESSAGE_BYTES = 2**28


@dataclass(frozen=True)
class Parity:
    """Largest differences between Triton and this process for one graph.

    Attributes:
        graph: name of the ensemble.
        tiles: number of tiles compared.
        differences: of each output, by its name (`nuclei.inference.parity.differences`).
    """

    graph: str
    tiles: int
    differences: dict[str, float]


def served_parity(
    repository: Path,
    model: str,
    frame: Frame,
    environment: Path = TRITON_ENVIRONMENT,
) -> list[Parity]:
    """Serve a repository on free ports and compare its answers with this process's.

    Args:
        repository: model repository.
        model: name of the model, whose champion is compared.
        frame: real pixels, uint8 or uint16 [H, W, C].
        environment: virtual environment of Triton.

    Raises:
        MissingPrerequisite, InvalidData, EngineFailed: Triton cannot serve the repository.
        ModelNotFound: it has no such model.
    """
    here = LocalEngine(repository)
    version = here.find(model)
    graphs = [version.graph_for(tta) for tta in (False, True)]
    (metrics_port,) = free_ports(1)
    with (
        TemporaryDirectory() as state,
        TritonServer(
            repository,
            Path(state),
            metrics_port=metrics_port,
            models=graphs,
            environment=environment,
        ) as server,
    ):
        return asyncio.run(_compare(server.address, here, version, frame))


async def _compare(
    address: str, here: LocalEngine, version: ServedVersion, frame: Frame
) -> list[Parity]:
    served = TritonEngine([address], 1, MAX_MESSAGE_BYTES)
    try:
        contract = version.contract
        height, width = frame.pixels.shape[:2]
        intensity = intensity_range(frame.pixels).range
        found = []
        for tta in (False, True):
            graph, plan = version.graph_for(tta), contract.plan(height, width, tta=tta)
            pixels = mirrored(frame.pixels, plan)
            tiles = [cut(pixels, tile, plan) for tile in plan.tiles]
            pairs = []
            for tile in tiles:
                asked = graph, contract.method.outputs, tile, intensity
                deadline = Deadline.after(TIMEOUT_S)
                pairs.append(
                    (await here.infer(*asked, deadline), await served.infer(*asked, deadline))
                )
            found.append(_parity(graph, pairs))
        return found
    finally:
        await served.close()


def _parity(graph: str, pairs: Sequence[tuple[Outputs, Outputs]]) -> Parity:
    by_tile = [differences(here, served) for here, served in pairs]
    largest = {name: max(tile[name] for tile in by_tile) for name in by_tile[0]}
    return Parity(graph, len(pairs), largest)
