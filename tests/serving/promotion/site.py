"""A registry whose versions can be served, and a machine that follows it."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from nuclei.inference.contract import Contract
from nuclei.inference.reference import Reference
from nuclei.quality.reference import Group
from serving.promotion.artifacts import digest
from serving.promotion.changes import record_gates
from serving.promotion.servers import ThisProcess
from serving.promotion.state import Gates, read_state
from serving.promotion.store import Store
from serving.promotion.sync import ModelSync
from serving.promotion.synced import SyncedRepository
from serving.registry import Registry

MODEL = "nuclei-unet"
FAMILY = "unet"


@dataclass(frozen=True)
class Following:
    """A process that looks at the registry once a round."""

    registry: Registry
    sync: ModelSync

    def round(self) -> None:
        self.sync.round(read_state(self.registry, self.sync.model))


@dataclass
class Site:
    """A registry with three versions that passed their gates, and a machine that follows it."""

    folder: Path
    registry: Registry
    client: MlflowClient

    @property
    def repository(self) -> SyncedRepository:
        return SyncedRepository(self.folder / "synced")

    @property
    def store(self) -> Store:
        return Store(self.folder / "versions", MODEL, 1, 10**9)

    def sync(self, registry: Registry | None = None, **changed: object) -> Following:
        """A new process, which remembers nothing."""
        registry = registry or self.registry
        arguments = {
            "model": MODEL,
            "registry": registry,
            "store": self.store,
            "repository": self.repository,
            "server": ThisProcess(self.repository),
            "instance": "here",
            "judges": False,
            "retire_s": 0,
        }
        return Following(registry, ModelSync(**{**arguments, **changed}))

    def champion(self, version: int) -> None:
        self.registry.set_alias(MODEL, "champion", version)

    def served(self) -> tuple[int | None, list[int]]:
        """The champion and all versions."""
        routing = self.repository.routing(FAMILY)
        champion = None if routing is None else routing.champion
        return champion, self.repository.versions(FAMILY)

    def refused(self, version: int) -> str:
        return read_state(self.registry, MODEL).find(version).refused or ""

    def register(self, artifacts: Path) -> int:
        """A new version with passed gates."""
        version = self.registry.register(MODEL, artifacts, {})
        gates = Gates(verdict="passed", reason="all gates passed", digest=digest(artifacts))
        record_gates(self.registry, MODEL, version, gates)
        return version


def other_answer(artifacts: Path, kind: Group = "grey") -> None:
    """Let a reference expect what the network does not answer: only running it shows that."""
    reference = Reference.read(artifacts, kind, Contract.read(artifacts / "contract.json"))
    labels = np.arange(reference.labels.size, dtype=np.uint32).reshape(reference.labels.shape) // 64
    replace(reference, labels=labels).write(artifacts)
