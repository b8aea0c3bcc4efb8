"""The Triton repository that sync writes: versions of the registry, and only whole ones.

A version is whole once the folder of its ensemble has the file `digest`, which names the artifacts
that it was made of and is written last.
"""

import shutil
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path

from nuclei.errors import InvalidData, InvalidOption, OtherVersionServed
from nuclei.inference.graph import WITH_WEIGHTS, graph_name, has_weights, step_name, with_views
from nuclei.inference.model_config import (
    CONFIG_FILE,
    MODEL_FILE,
    contract_of,
    read_model_config,
    routing_of,
)
from nuclei.inference.routing import Routing
from nuclei.registry import registered_name
from nuclei.whole_file import write_whole
from serving.promotion.store import StoredVersion
from serving.repository.export import export_version, remove_version, set_routing
from serving.repository.listing import exported_versions, model_names

_DIGEST = "digest"


@dataclass(frozen=True)
class SyncedRepository:
    """A repository of Triton that belongs to sync.

    Attributes:
        folder: of the repository.
    """

    folder: Path

    def families(self) -> list[str]:
        """Families of which a version is served."""
        return model_names(self.folder) if self.folder.is_dir() else []

    def family_of(self, registered_model: str) -> str | None:
        """The family whose registered model this is; None before there is a version of it."""
        for path in sorted(self.folder.glob(f"*.*/{_DIGEST}")):
            family = path.parent.name.rpartition(".")[0]
            if registered_name(family) == registered_model:
                return family
        for family in self.families():
            if registered_name(family) == registered_model:
                return family
        return None

    def versions(self, family: str) -> list[int]:
        """Its versions, ascending; also such that are not whole."""
        return exported_versions(self.folder, family)

    def digest(self, family: str, version: int) -> str | None:
        """Of the artifacts of a version; None when it is not there whole."""
        try:
            return self._mark(family, version).read_text()
        except FileNotFoundError:
            return None

    def add(self, stored: StoredVersion, registered_model: str, version: int) -> str:
        """Export a version unless it is there whole.

        Returns:
            Its family.

        Raises:
            InvalidData: it is not what Triton loads, or of another family than its registered
                model.
            OtherVersionServed: a service began with it when it did not reach the registry, or
                followed another registry.
        """
        family = stored.contract().family
        if registered_name(family) != registered_model:
            raise InvalidData(
                f"its contract names the family '{family}', whose registered model is "
                f"{registered_name(family)}; register it there"
            )
        if self.digest(family, version) == stored.digest:
            return family
        if not self._is_same(stored, family, version):
            self.remove(family, version)
            export_version(stored.folder, self.folder, version, registered_model=registered_model)
        write_whole(self._mark(family, version), stored.digest)
        return family

    def _is_same(self, stored: StoredVersion, family: str, version: int) -> bool:
        """Whether what is there, and was not made here, is of the same contract and weights."""
        graphs = [self.folder / graph / CONFIG_FILE for graph in graphs_of(family, version)]
        if self.digest(family, version) is not None or not all(path.exists() for path in graphs):
            return False
        contract = stored.contract()
        if any(contract_of(read_model_config(path)) != contract for path in graphs):
            return False
        for file in filter(has_weights, contract.method.graphs.files()):
            there = self.folder / step_name(family, file, version) / str(version) / MODEL_FILE
            if not there.exists() or not cmp(stored.folder / file.filename, there, shallow=False):
                return False
        return True

    def routing(self, family: str) -> Routing | None:
        """What the plain name means; None before it means anything."""
        path = self.folder / family / CONFIG_FILE
        return routing_of(read_model_config(path)) if path.exists() else None

    def route(self, family: str, routing: Routing) -> None:
        """Say what the plain name means; raises as `serving.repository.export.set_routing`."""
        set_routing(self.folder, family, routing)

    def remove(self, family: str, version: int) -> None:
        """Remove a version; raises OtherVersionServed when the plain name means it."""
        try:
            # The mark goes with it: what a killed process leaves has no configuration.
            remove_version(self.folder, family, version)
        except InvalidOption as error:
            raise OtherVersionServed(
                f"another version {version} of '{family}' is in use, which does not come from the "
                "registry: restart the service"
            ) from error

    def seed(self, repository: Path) -> None:
        """Copy a repository whose models nobody has registered, unless there is a model already."""
        if self.families():
            return
        incoming = self.folder.with_name(f".{self.folder.name}.incoming")
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.copytree(repository, incoming)
        shutil.rmtree(self.folder, ignore_errors=True)
        incoming.rename(self.folder)

    def _mark(self, family: str, version: int) -> Path:
        return self.folder / graph_name(family, version) / _DIGEST


def graphs_of(family: str, version: int) -> tuple[str, str]:
    """The two ensembles of a version."""
    graph = graph_name(family, version)
    return graph, with_views(graph, tta=True)


def networks_of(family: str, version: int) -> list[str]:
    """Names that the steps with weights of a version may have."""
    return sorted({step_name(family, file, version) for file in WITH_WEIGHTS})
