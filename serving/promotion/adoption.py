"""Registering what a service serves already, so that it can be rolled back to."""

from pathlib import Path
from tempfile import TemporaryDirectory

from nuclei.imaging.images import read_frame
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.reference import write_references
from nuclei.registry import LICENCE_TAG, registered_name
from serving.promotion.artifacts import digest
from serving.promotion.changes import adopt
from serving.promotion.state import ADOPTED_TAG, ModelState
from serving.registry import Registry
from serving.repository.export import collect_artifacts

_WHY = "served already when this model had no champion"


def adopt_served(
    registry: Registry, state: ModelState | None, repository: Path, family: str, frame: Path
) -> None:
    """Make a champion of the model that a repository serves, where the registry has none.

    Args:
        registry: in which it is registered.
        state: of the registered model, which never had a champion; None when there is no such.
        repository: of Triton.
        family: of the model.
        frame: image file, of which its references are made.

    Raises:
        InvalidData: the repository cannot be used.
        Conflict: somebody else changes the model.
        RegistryUnavailable: the registry does not answer.
    """
    model = registered_name(family)
    with TemporaryDirectory() as scratch:
        artifacts = Path(scratch)
        _write_artifacts(repository, family, frame, artifacts)
        version = _registered(registry, model, state, artifacts)
    adopt(registry, model, version, why=_WHY)


def _registered(registry: Registry, model: str, state: ModelState | None, artifacts: Path) -> int:
    """The version with these files: one that a killed adoption left, or a new one."""
    licence = Contract.read(artifacts / CONTRACT_FILE).licence
    tags = {ADOPTED_TAG: digest(artifacts), **({LICENCE_TAG: licence} if licence else {})}
    for entry in state.versions if state else ():
        if entry.adopted == tags[ADOPTED_TAG]:
            return entry.version
    return registry.register(model, artifacts, tags)


def _write_artifacts(repository: Path, family: str, frame: Path, artifacts: Path) -> None:
    """What training would have registered for the champion of a family."""
    engine = LocalEngine(repository)
    served = engine.find(family)
    collect_artifacts(repository, family, int(served.version), artifacts)
    write_references([read_frame(frame).pixels], engine, served, artifacts)
