"""The models of a repository that callers can ask for."""

from dataclasses import dataclass
from pathlib import Path

from nuclei.inference.contract import Contract
from nuclei.inference.graph import TTA_SUFFIX
from nuclei.inference.model_config import (
    CONFIG_FILE,
    contract_of,
    has_contract,
    read_model_config,
    versions_of,
)


@dataclass(frozen=True)
class ListedModel:
    """A model of a repository that callers can ask for.

    Attributes:
        name: the Triton ensemble.
        versions: its versions, ascending.
        contract: the contract of the latest.
    """

    name: str
    versions: tuple[int, ...]
    contract: Contract


def list_models(repository: Path) -> list[ListedModel]:
    """The models of a repository, by name; none where there is no repository.

    Raises:
        InvalidData: a configuration cannot be used.
    """
    found = []
    for path in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        config = read_model_config(path)
        if has_contract(config) and not config.name.endswith(TTA_SUFFIX):
            versions = tuple(versions_of(path.parent))
            found.append(ListedModel(config.name, versions, contract_of(config)))
    return found
