"""Parity: Triton's answers against those of the same ONNX files in this process."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from nuclei.imaging.images import Frame
from nuclei.imaging.intensity import intensity_range
from nuclei.imaging.tiles import cut, mirrored
from nuclei.inference.contract import Contract
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
    frames: Sequence[Frame],
    environment: Path = TRITON_ENVIRONMENT,
) -> list[Parity]:
    """Serve a repository on free ports and compare its answers with this process's.

    Args:
        repository: model repository.
        model: name of the model, whose champion is compared.
        frames: real pixels, uint8 or uint16 [H, W, C]; grey and in colour, which may be answered
            by different networks.
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
        return asyncio.run(_compare(server.address, here, version, frames))


async def _compare(
    address: str, here: LocalEngine, version: ServedVersion, frames: Sequence[Frame]
) -> list[Parity]:
    served = TritonEngine([address], 1, MAX_MESSAGE_BYTES)
    try:
        found = []
        for tta in (False, True):
            graph = version.graph_for(tta)
            pairs = []
            for tile, intensity in _tiles(frames, version.contract, tta):
                asked = graph, version.contract.method.outputs, tile, intensity
                deadline = Deadline.after(TIMEOUT_S)
                pairs.append(
                    (await here.infer(*asked, deadline), await served.infer(*asked, deadline))
                )
            found.append(_parity(graph, pairs))
        return found
    finally:
        await served.close()


def _tiles(
    frames: Sequence[Frame], contract: Contract, tta: bool
) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.float32]]]:
    """The tiles of all frames, uint16 [S, S, C], each with the range of its frame, float32 [2]."""
    for frame in frames:
        plan = contract.plan(*frame.pixels.shape[:2], tta=tta)
        pixels, intensity = mirrored(frame.pixels, plan), intensity_range(frame.pixels).range
        for tile in plan.tiles:
            yield cut(pixels, tile, plan), intensity


def _parity(graph: str, pairs: Sequence[tuple[Outputs, Outputs]]) -> Parity:
    by_tile = [differences(here, served) for here, served in pairs]
    largest = {name: max(tile[name] for tile in by_tile) for name in by_tile[0]}
    return Parity(graph, len(pairs), largest)
