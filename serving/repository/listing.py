"""The models of a repository that callers can ask for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonclient.grpc.model_config_pb2 import ModelConfig

from nuclei.inference.graph import TTA_SUFFIX
from nuclei.inference.model_config import (
    CONFIG_FILE,
    contract_of,
    has_contract,
    read_model_config,
    versions_of,
)

if TYPE_CHECKING:
    from nuclei.inference.contract import Contract


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
    contract: "Contract"


def list_models(repository: Path) -> list[ListedModel]:
    """The models of a repository, by name; none where there is no repository.

    Raises:
        InvalidData: a configuration cannot be used.
    """
    return [
        ListedModel(config.name, tuple(versions_of(folder)), contract_of(config))
        for folder, config in _models(repository)
    ]


def model_names(repository: Path) -> list[str]:
    """Their names alone, without a look into their contracts; raises as `list_models`."""
    return [config.name for _, config in _models(repository)]


def _models(repository: Path) -> Iterator[tuple[Path, ModelConfig]]:
    for path in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        config = read_model_config(path)
        if has_contract(config) and not config.name.endswith(TTA_SUFFIX):
            yield path.parent, config
