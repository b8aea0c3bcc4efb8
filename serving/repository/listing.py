"""The models of a repository that callers can ask for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tritonclient.grpc.model_config_pb2 import ModelConfig

from nuclei.inference.graph import TTA_SUFFIX, graph_name
from nuclei.inference.model_config import (
    CONFIG_FILE,
    CONTRACT_PARAMETER,
    ROUTING_PARAMETER,
    contract_of,
    is_model,
    read_model_config,
    routing_of,
)

if TYPE_CHECKING:
    from nuclei.inference.contract import Contract


@dataclass(frozen=True)
class ListedModel:
    """A model of a repository that callers can ask for.

    Attributes:
        name: by which callers ask for it.
        versions: its versions, ascending.
        champion: the version that the name means.
        contract: the champion's.
    """

    name: str
    versions: tuple[int, ...]
    champion: int
    contract: "Contract"


def list_models(repository: Path) -> list[ListedModel]:
    """The models of a repository, by name; none where there is no repository.

    Raises:
        InvalidData: a configuration cannot be used.
    """
    return [_listed(repository, config) for config in _models(repository)]


def model_names(repository: Path) -> list[str]:
    """Their names alone, without a look into their contracts; raises as `list_models`."""
    return [config.name for config in _models(repository)]


def exported_versions(repository: Path, model: str) -> list[int]:
    """The versions of a model that a repository holds, ascending."""
    names = {path.parent.name for path in repository.glob(f"{model}.*/{CONFIG_FILE}")}
    numbers = {name.removeprefix(f"{model}.") for name in names}
    return sorted(int(number) for number in numbers if number.isascii() and number.isdecimal())


def spare_models(repository: Path) -> frozenset[str]:
    """Ensembles of versions that no plain name means, and the steps that only these use.

    Callers who name no version do without them. Raises InvalidData as `list_models`.
    """
    configs = [read_model_config(path) for path in repository.glob(f"*/{CONFIG_FILE}")]
    ensembles = {config.name: _steps(config) for config in configs if _steps(config)}
    plain = {config.name: routing_of(config) for config in configs if _is_plain(config)}
    meant = {f"{name.removesuffix(TTA_SUFFIX)}.{each.champion}" for name, each in plain.items()}
    of_versions = {config.name for config in configs if CONTRACT_PARAMETER in config.parameters}
    spare = {name for name in of_versions if name.removesuffix(TTA_SUFFIX) not in meant}
    used = {step for name, steps in ensembles.items() if name not in spare for step in steps}
    return frozenset(spare | {step for name in spare for step in ensembles[name]} - used)


def _steps(config: ModelConfig) -> set[str]:
    return {step.model_name for step in config.ensemble_scheduling.step}


def _is_plain(config: ModelConfig) -> bool:
    return ROUTING_PARAMETER in config.parameters


def _models(repository: Path) -> Iterator[ModelConfig]:
    for path in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        config = read_model_config(path)
        if is_model(config):
            yield config


def _listed(repository: Path, config: ModelConfig) -> ListedModel:
    champion = routing_of(config).champion
    of_champion = read_model_config(repository / graph_name(config.name, champion) / CONFIG_FILE)
    versions = tuple(exported_versions(repository, config.name))
    return ListedModel(config.name, versions, champion, contract_of(of_champion))
