"""Where versions are tried and served: a Triton, or this process before there is one."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from nuclei.errors import InvalidData, ModelNotFound
from nuclei.evaluation.metrics import Overlap
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import Engine, ServedVersion
from nuclei.inference.graph import graph_name, with_views
from nuclei.inference.model_config import CONFIG_FILE, read_model_config, routing_of
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.pipeline import segment
from nuclei.inference.routing import Routing
from serving.engine import TritonEngine
from serving.promotion.store import StoredVersion
from serving.promotion.synced import SyncedRepository, graphs_of, networks_of
from serving.supervision.probe import Fault, check_triton
from serving.triton.control import TritonControl

# Rounding in bf16 moves outlines and a nucleus of few pixels, not more.
MIN_F1 = 0.8
PROOF_S = 120.0
_PIXELS = 2**22
_MAX_MESSAGE_BYTES = 2**30


class Server(Protocol):
    """What sync needs of a server of versions.

    Every method may raise EngineUnavailable or EngineFailed.
    """

    def check_answers(self) -> None:
        """Raise when it does not answer at all."""

    def works(self) -> bool:
        """Whether the champions that it serves answer; True where it serves none."""

    def load(self, family: str, version: int) -> None:
        """Load a version of the repository."""

    def prove(self, family: str, version: int, stored: StoredVersion) -> None:
        """Check that a loaded version answers as it must; raises InvalidData when it does not."""

    def loaded(self, family: str) -> list[int]:
        """The versions of a family that are loaded, ascending."""

    def route(self, family: str, routing: Routing) -> None:
        """Let the plain name mean what the repository says."""

    def idle_s(self, family: str, version: int) -> float:
        """Seconds since a frame was last given to a version."""

    def unload(self, family: str, version: int) -> None:
        """Unload a version; harmless when it is not loaded."""


@dataclass(frozen=True)
class TritonBeside:
    """The Triton that serves the repository.

    Attributes:
        control: of Triton.
        repository: which it serves.
    """

    control: TritonControl
    repository: SyncedRepository

    def check_answers(self) -> None:
        self.control.ready()

    def works(self) -> bool:
        try:
            check_triton(self.control.address)
        except Fault:
            return False
        return True

    def load(self, family: str, version: int) -> None:
        ready = self.control.ready()
        graphs = graphs_of(family, version)
        if {(graph, version) for graph in graphs} <= ready:
            return
        for step, of_step in self._steps(graphs):
            # Triton looks only for steps that it has no version of.
            if (step, of_step) not in ready:
                self.control.load(step)
        for graph in graphs:
            self.control.load(graph)

    def _steps(self, graphs: tuple[str, str]) -> list[tuple[str, int]]:
        steps = {}
        for graph in graphs:
            config = read_model_config(self.repository.folder / graph / CONFIG_FILE)
            for step in config.ensemble_scheduling.step:
                steps[step.model_name] = step.model_version
        return list(steps.items())

    def prove(self, family: str, version: int, stored: StoredVersion) -> None:
        async def ask() -> None:
            engine = TritonEngine([self.control.address], _PIXELS, _MAX_MESSAGE_BYTES)
            try:
                await _prove(engine, family, version, stored)
            finally:
                await engine.close()

        asyncio.run(ask())

    def loaded(self, family: str) -> list[int]:
        ready = self.control.ready()
        versions = {version for name, version in ready if name == graph_name(family, version)}
        return sorted(v for v in versions if {(g, v) for g in graphs_of(family, v)} <= ready)

    def route(self, family: str, routing: Routing) -> None:
        # Gateways read the plain name; the one with augmentation is to be as new by then.
        for tta in (True, False):
            name = with_views(family, tta)
            if self._routing(name) != routing:
                self.control.load(name)

    def _routing(self, name: str) -> Routing | None:
        try:
            return routing_of(self.control.config(name))
        except (ModelNotFound, InvalidData):
            return None

    def idle_s(self, family: str, version: int) -> float:
        return min(self._idle_s(graph) for graph in graphs_of(family, version))

    def _idle_s(self, graph: str) -> float:
        try:
            return self.control.idle_s(graph)
        except ModelNotFound:
            return float("inf")

    def unload(self, family: str, version: int) -> None:
        for name in (*graphs_of(family, version), *networks_of(family, version)):
            self.control.unload(name)


@dataclass(frozen=True)
class ThisProcess:
    """No server: the repository is made ready for one that will start with it.

    Attributes:
        repository: which it will serve.
    """

    repository: SyncedRepository

    def check_answers(self) -> None:
        pass

    def works(self) -> bool:
        return True

    def load(self, family: str, version: int) -> None:
        pass

    def prove(self, family: str, version: int, stored: StoredVersion) -> None:
        asyncio.run(_prove(LocalEngine(self.repository.folder), family, version, stored))

    def loaded(self, family: str) -> list[int]:
        return self.repository.versions(family)

    def route(self, family: str, routing: Routing) -> None:
        pass

    def idle_s(self, family: str, version: int) -> float:
        return float("inf")

    def unload(self, family: str, version: int) -> None:
        pass


async def _prove(engine: Engine, family: str, version: int, stored: StoredVersion) -> None:
    contract = stored.contract()
    served = ServedVersion(family, str(version), graph_name(family, version), contract)
    outputs = contract.method.outputs_for(tta=True)
    deadline = Deadline.after(PROOF_S)
    for one in stored.references():
        found = await segment(one.frame, engine, served, deadline=deadline)
        agreement = Overlap.of(one.labels, found.labels).f1()
        if agreement < MIN_F1:
            raise InvalidData(
                f"its answer to its reference ({one.kind}) agrees to {agreement:.2f} with what "
                f"training logged (F1 at IoU 0.5); expected at least {MIN_F1}"
            )
        await engine.infer(served.graph_for(tta=True), outputs, one.image, one.intensity, deadline)
