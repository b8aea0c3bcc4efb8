"""Adding model versions to a repository, from the artifacts that training registers.

Each version is a set of models of its own, so that versions serve side by side and none of them
touches another: the steps that hold weights (`unet_network.4`) and two ensembles (`unet.4`,
`unet.4_tta`). Which of them the model's plain name means says `set_routing`.
"""

import filecmp
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nuclei.errors import InvalidData, InvalidOption, ModelNotFound
from nuclei.inference.contract import CONTRACT_FILE, MAX_BYTES, Contract
from nuclei.inference.graph import (
    WITH_WEIGHTS,
    graph_name,
    has_weights,
    step_name,
    with_views,
)
from nuclei.inference.method import Method
from nuclei.inference.model_config import (
    CONFIG_FILE,
    CONTRACT_PARAMETER,
    ENSEMBLE,
    MODEL_FILE,
    contract_of,
    read_model_config,
    routing_of,
    versions_of,
)
from nuclei.inference.routing import Routing
from nuclei.names import MAX_VERSION, is_name
from nuclei.quoting import quoted
from nuclei.whole_file import write_whole
from serving.repository.checks import check_models
from serving.repository.configuration import (
    DEFAULT_CPU_ACCELERATOR,
    CpuAccelerator,
    ensemble_config,
    network_config,
    plain_config,
    shared_step_config,
)
from serving.repository.files import check_file

MODEL_PARAMETER = "mlflow_model"
VERSION_PARAMETER = "mlflow_version"
# Git keeps no empty folder, and Triton needs the version folder of an ensemble.
PLACEHOLDER = ".gitkeep"


@dataclass(frozen=True)
class Exported:
    """One model of a repository after an export.

    Attributes:
        name: the Triton model.
        version: its version that the export uses.
        ensemble: whether it is an ensemble, which callers ask for, or one of its steps.
        new: whether the export wrote that version, or found the same bytes there.
    """

    name: str
    version: int
    ensemble: bool
    new: bool


@dataclass(frozen=True)
class _Addition:
    """A version to be added: its configuration, and its ONNX file (an ensemble has none)."""

    config: ModelConfig
    version: int
    graph: Path | None


def export_version(
    artifacts: Path,
    repository: Path,
    version: int,
    *,
    registered_model: str = "nuclei-unet",
    accelerator: CpuAccelerator = DEFAULT_CPU_ACCELERATOR,
) -> list[Exported]:
    """Add a model version to a repository, beside those that are there.

    Each version folder is written beside its place and moved in whole, then the configuration is
    written; Triton never sees half of either. No version is overwritten.

    Args:
        artifacts: folder with contract.json, network.onnx and the shared steps' ONNX files.
        repository: the model repository, made when missing.
        version: the version of the registered model, and so of the networks and the ensembles.
        registered_model: name of the registered model, kept in the ensembles' configurations.
        accelerator: what runs the network on a CPU.

    Returns:
        The models of the graph, steps before the ensembles that use them.

    Raises:
        InvalidData: a file is missing, a link, or not what Triton loads; the contract is
            impossible, or names a model as another of the repository.
        InvalidOption: the repository has that version already, or the version is impossible.
    """
    if not 1 <= version <= MAX_VERSION:
        raise InvalidOption(f"version {version} is impossible; expected 1 to {MAX_VERSION}")
    check_file(artifacts / CONTRACT_FILE, MAX_BYTES)
    contract = Contract.read(artifacts / CONTRACT_FILE)
    additions = _additions(artifacts, repository, version, contract, registered_model, accelerator)
    _check_names(additions, contract.family, repository)
    check_models([(addition.config, addition.graph) for addition in additions])
    _refuse_overwriting(additions, repository, contract.method)
    return [_add(addition, repository) for addition in additions]


def collect_artifacts(repository: Path, model: str, version: int, folder: Path) -> Path:
    """Copy the files of an exported version back into a folder, as training registers them.

    Returns:
        The folder, with contract.json and the ONNX files.

    Raises:
        ModelNotFound: the repository has no such version.
        InvalidData: a configuration cannot be used, or lacks a step.
    """
    graphs = _graphs_of(repository, model, version)
    configs = [read_model_config(repository / graph / CONFIG_FILE) for graph in graphs]
    contract = contract_of(configs[0])
    steps = {
        step.model_name: step.model_version
        for config in configs
        for step in config.ensemble_scheduling.step
    }
    for file in contract.method.graphs.files():
        name = step_name(model, file, version)
        if name not in steps:
            raise InvalidData(f"'{model}' has no step '{name}' in {repository}; export it again")
        shutil.copyfile(repository / name / str(steps[name]) / MODEL_FILE, folder / file.filename)
    (folder / CONTRACT_FILE).write_text(contract.to_json())
    return folder


def set_contract(repository: Path, model: str, version: int, contract: Contract) -> list[str]:
    """Change the contract of an exported version, whose files stay as they are.

    Args:
        repository: the model repository.
        model: name of the model.
        version: of the model.
        contract: the new one, of the same networks.

    Returns:
        Names of its ensembles, which a running Triton has to load again: none when they say the
        same already.

    Raises:
        ModelNotFound: the repository has no such version.
        InvalidData: a configuration cannot be used, or the contract is impossible.
    """
    graphs = _graphs_of(repository, model, version)
    configs = [read_model_config(repository / graph / CONFIG_FILE) for graph in graphs]
    for config in configs:
        config.parameters[CONTRACT_PARAMETER].string_value = contract.to_json()
    return [config.name for config in configs if _write_config(repository / config.name, config)]


def set_routing(repository: Path, model: str, routing: Routing) -> list[str]:
    """Say which version a model's plain name means.

    Args:
        repository: the model repository.
        model: name of the model.
        routing: its champion, which the repository holds; and how callers are shared out.

    Returns:
        Names of the ensembles with the plain name, which Triton has to load again: none when they
        say the same already.

    Raises:
        ModelNotFound: the repository lacks the champion.
        InvalidData: a configuration cannot be used.
    """
    changed = []
    for tta in (False, True):
        name, graph = with_views(model, tta), graph_name(model, routing.champion, tta=tta)
        of_version = repository / graph / CONFIG_FILE
        if not of_version.exists():
            raise ModelNotFound(
                f"'{model}' has no version {routing.champion} in {repository}; export it first"
            )
        config = plain_config(name, read_model_config(of_version), routing)
        folder = repository / name / str(routing.champion)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / PLACEHOLDER).exists():
            # Triton would take a new time for a change.
            (folder / PLACEHOLDER).touch()
        if _write_config(repository / name, config):
            changed.append(name)
    return changed


def remove_version(repository: Path, model: str, version: int) -> None:
    """Remove what belongs to one version of a model alone; harmless when it is gone.

    Its ensembles go before its networks, and each configuration before its files, so that what a
    killed process leaves is not taken for a model.

    Raises:
        InvalidOption: its plain name means that version.
    """
    plain = repository / model / CONFIG_FILE
    if plain.exists() and routing_of(read_model_config(plain)).champion == version:
        raise InvalidOption(f"'{model}' means version {version}; make another its champion first")
    graphs = [graph_name(model, version, tta=tta) for tta in (True, False)]
    networks = sorted({step_name(model, file, version) for file in WITH_WEIGHTS})
    for name in (*graphs, *networks):
        (repository / name / CONFIG_FILE).unlink(missing_ok=True)
        shutil.rmtree(repository / name, ignore_errors=True)
    for tta in (False, True):
        shutil.rmtree(repository / with_views(model, tta) / str(version), ignore_errors=True)


def _graphs_of(repository: Path, model: str, version: int) -> list[str]:
    """The ensembles of an exported version, without and with views; raises ModelNotFound."""
    graphs = [graph_name(model, version, tta=tta) for tta in (False, True)]
    if not all((repository / graph / CONFIG_FILE).exists() for graph in graphs):
        raise ModelNotFound(f"'{model}' has no version {version} in {repository}")
    return graphs


def _additions(
    artifacts: Path,
    repository: Path,
    version: int,
    contract: Contract,
    registered_model: str,
    accelerator: CpuAccelerator,
) -> list[_Addition]:
    """What the version consists of, steps before ensembles."""
    graphs = contract.method.graphs
    additions = []
    models = {}
    for file in graphs.files():
        graph = artifacts / file.filename
        if has_weights(file):
            config, added = network_config(contract, file, version, graph, accelerator), version
        else:
            config = shared_step_config(file.name, graph)
            added = _step_version(repository / file.name, graph)
        additions.append(_Addition(config, added, graph))
        models[file.name] = config, added
    parameters = {
        CONTRACT_PARAMETER: contract.to_json(),
        MODEL_PARAMETER: registered_model,
        VERSION_PARAMETER: str(version),
    }
    for tta, steps in ((False, graphs.one_view), (True, graphs.all_views)):
        name = graph_name(contract.family, version, tta=tta)
        config = ensemble_config(name, steps, models, contract.method.outputs, parameters)
        additions.append(_Addition(config, version, None))
    return additions


def _check_names(additions: Sequence[_Addition], family: str, repository: Path) -> None:
    """Whether each model can be a folder of its own.

    Raises InvalidData for a name that breaks the rule, or that another kind of model has: an
    ensemble named `merge` would replace the step that all models share.
    """
    kinds: dict[str, bool] = {with_views(family, tta): True for tta in (False, True)}
    for addition in additions:
        name, ensemble = addition.config.name, addition.graph is None
        path = repository / name / CONFIG_FILE
        if not is_name(name):
            raise InvalidData(
                f"the model would be called {quoted(name)}; expected 1 to 64 of the characters "
                "A-Z a-z 0-9 _ . -: train the model under a shorter name"
            )
        if path.exists():
            kinds.setdefault(name, read_model_config(path).platform == ENSEMBLE)
        if kinds.setdefault(name, ensemble) != ensemble:
            raise InvalidData(
                f"the model would be called '{name}', as a step of a model already is; train the "
                "model under another name, or export it into another repository"
            )


def _refuse_overwriting(additions: Sequence[_Addition], repository: Path, method: Method) -> None:
    """Raises InvalidOption when a model's own version is there; steps may be those of others."""
    shared = {file.name for file in method.graphs.files() if not has_weights(file)}
    for addition in additions:
        folder = repository / addition.config.name / str(addition.version)
        if folder.exists() and addition.config.name not in shared:
            raise InvalidOption(
                f"{folder} exists and is never overwritten; "
                "train or register a new version, or export into another repository"
            )


def _step_version(model: Path, graph: Path) -> int:
    """The version of a shared step: the latest when it holds the same bytes, else the next."""
    versions = versions_of(model)
    if not versions:
        return 1
    same = filecmp.cmp(model / str(versions[-1]) / MODEL_FILE, graph, shallow=False)
    return versions[-1] if same else versions[-1] + 1


def _add(addition: _Addition, repository: Path) -> Exported:
    """Write a version folder unless it is there, then the configuration."""
    model = repository / addition.config.name
    folder = model / str(addition.version)
    new = not folder.exists()
    if new:
        # Triton passes over folders whose names are no numbers.
        incoming = model / f".incoming-{addition.version}"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        if addition.graph is None:
            (incoming / PLACEHOLDER).touch()
        else:
            shutil.copyfile(addition.graph, incoming / MODEL_FILE)
        os.rename(incoming, folder)
    _write_config(model, addition.config)
    return Exported(addition.config.name, addition.version, addition.graph is None, new)


def _write_config(model: Path, config: ModelConfig) -> bool:
    """Write a model's configuration unless it is there: Triton loads again what was written."""
    text = text_format.MessageToString(config)
    path = model / CONFIG_FILE
    if path.exists() and path.read_text() == text:
        return False
    write_whole(path, text)
    return True
