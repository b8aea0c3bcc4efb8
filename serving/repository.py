"""Triton model repositories: filled from the artifacts of a model version, and checked offline."""

import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import onnxruntime
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from nuclei.errors import InvalidData, InvalidOption, NucleiError
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.graph import DECODER, GRAPHS, NETWORKS, Step
from nuclei.inference.model_config import (
    CONFIG_FILE,
    CONTRACT_PARAMETER,
    MODEL_FILE,
    contract_of,
    has_contract,
    parse_model_config,
    versions_of,
)
from nuclei.inference.pipeline import TTA_SUFFIX
from nuclei.postprocessing.accumulation import OUTPUTS
from serving.triton.backend.onnx_file import TRITON_TYPES, misfits, read_versions

MODEL_PARAMETER = "mlflow_model"
VERSION_PARAMETER = "mlflow_version"

MAX_BATCH_SIZE = 16
# An instance of priority n works one nth as often, unless the others are busy.
LAST_PRIORITY = 1000
# Git keeps no empty folder, and Triton needs the version folder of an ensemble.
PLACEHOLDER = ".gitkeep"

onnxruntime.disable_telemetry_events()


class CpuAccelerator(StrEnum):
    """What runs the network on a CPU; a GPU runs it with CUDA in any case."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"


DEFAULT_CPU_ACCELERATOR = CpuAccelerator.OPENVINO_BF16
_OPENVINO_PRECISIONS = {CpuAccelerator.OPENVINO: "FP32", CpuAccelerator.OPENVINO_BF16: "BF16"}


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
class Listed:
    """A model of a repository that callers can ask for.

    Attributes:
        name: the Triton ensemble.
        versions: its versions, ascending.
        contract: the contract of the latest.
    """

    name: str
    versions: tuple[int, ...]
    contract: Contract


@dataclass(frozen=True)
class _Addition:
    """A version to be added: its configuration, and its ONNX file (an ensemble has none)."""

    config: ModelConfig
    version: int
    graph: Path | None


def export(
    artifacts: Path,
    repository: Path,
    version: int,
    *,
    registered_model: str = "nuclei-unet",
    accelerator: CpuAccelerator = DEFAULT_CPU_ACCELERATOR,
) -> list[Exported]:
    """Add a model version to a repository.

    Each version folder is written beside the others and moved in whole, then the configuration is
    replaced; Triton never sees half of either. No version is overwritten.

    Args:
        artifacts: folder with contract.json, network.onnx and the shared steps' ONNX files.
        repository: the model repository, made when missing.
        version: the version of the registered model, and so of the network and the ensembles.
        registered_model: name of the registered model, kept in the ensembles' configurations.
        accelerator: what runs the network on a CPU.

    Returns:
        The models of the graph, steps before the ensembles that use them.

    Raises:
        InvalidData: a file is missing, or is not what Triton loads.
        InvalidOption: the repository has that version already, or the version is not above 0.
    """
    if version < 1:
        raise InvalidOption(f"version {version} is impossible; expected 1 or more")
    contract = Contract.read(artifacts / CONTRACT_FILE)
    additions = _additions(artifacts, repository, version, contract, registered_model, accelerator)
    _raise_if(_addition_problems(additions))
    shared = {step.name for step in GRAPHS[contract.method].files()} - set(NETWORKS)
    for addition in additions:
        folder = repository / addition.config.name / str(addition.version)
        if folder.exists() and addition.config.name not in shared:
            raise InvalidOption(
                f"{folder} exists and is never overwritten; "
                "train or register a new version, or export into another repository"
            )
    return [_add(addition, repository) for addition in additions]


def listed(repository: Path) -> list[Listed]:
    """The models of a repository that callers can ask for, by name; none where there is none.

    Raises:
        InvalidData: a configuration cannot be read.
    """
    found = []
    for path in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        config = parse_model_config(path.read_text(), path.parent.name)
        if has_contract(config) and not config.name.endswith(TTA_SUFFIX):
            versions = tuple(versions_of(path.parent))
            found.append(Listed(config.name, versions, contract_of(config)))
    return found


def check_repository(repository: Path) -> None:
    """Check that a repository is one that Triton loads, here and in NVIDIA's container.

    Raises:
        InvalidData: every problem found, one a line.
    """
    _raise_if(_repository_problems(repository))


def _raise_if(problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        raise InvalidData("\n".join(found))


def _additions(
    artifacts: Path,
    repository: Path,
    version: int,
    contract: Contract,
    registered_model: str,
    accelerator: CpuAccelerator,
) -> list[_Addition]:
    graphs = GRAPHS[contract.method]
    additions = []
    models = {}
    for step in graphs.files():
        graph = artifacts / f"{step.name}.onnx"
        if step.name in NETWORKS:
            config, added = _network_config(contract, step, graph, accelerator), version
        else:
            config = _step_config(step.name, graph)
            added = _step_version(repository / step.name, graph)
        additions.append(_Addition(config, added, graph))
        models[step.name] = config
    parameters = {
        CONTRACT_PARAMETER: contract.to_json(),
        MODEL_PARAMETER: registered_model,
        VERSION_PARAMETER: str(version),
    }
    for name, steps in (
        (contract.family, graphs.one_view),
        (contract.family + TTA_SUFFIX, graphs.all_views),
    ):
        config = _ensemble_config(name, steps, models, OUTPUTS[contract.method], parameters)
        additions.append(_Addition(config, version, None))
    return additions


def _step_version(model: Path, graph: Path) -> int:
    """The latest version when it holds the same bytes, else the next."""
    versions = versions_of(model)
    if not versions:
        return 1
    same = filecmp.cmp(model / str(versions[-1]) / MODEL_FILE, graph, shallow=False)
    return versions[-1] if same else versions[-1] + 1


def _step_config(name: str, graph: Path) -> ModelConfig:
    config = _onnx_config(name, graph)
    # Idle threads of small steps would spin beside the network.
    config.parameters["intra_op_thread_count"].string_value = "1"
    return config


def _network_config(
    contract: Contract, step: Step, graph: Path, accelerator: CpuAccelerator
) -> ModelConfig:
    """The configuration of a step that holds weights."""
    name, batched = f"{contract.family}_{step.name}", step.batched
    config = _onnx_config(name, graph, MAX_BATCH_SIZE if batched else 0)
    if batched:
        # No delay: what waits while a batch runs is the next batch.
        config.dynamic_batching.SetInParent()
    # The first frames find everything compiled, for grey and for colour. Of zeros: among random
    # bytes are infinities, of which detectors make boxes that are none.
    image = config.input[0]
    for channels in (1, 3) if step.name != DECODER else ():
        warm_up = config.model_warmup.add(name=f"{channels} channels", batch_size=1)
        tensor = warm_up.inputs[image.name]
        tensor.data_type, tensor.zero_data = image.data_type, True
        tile = (channels, contract.tile_size, contract.tile_size)
        tensor.dims.extend(tile if batched else (1, *tile))
    if batched and accelerator in _OPENVINO_PRECISIONS:
        accelerators = config.optimization.execution_accelerators
        openvino = accelerators.cpu_execution_accelerator.add(name="openvino")
        openvino.parameters["precision"] = _OPENVINO_PRECISIONS[accelerator]
        # A second image at a time; one alone always finds the same instance, whose caches are warm.
        config.instance_group[0].rate_limiter.priority = 1
        config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_AUTO)
        config.instance_group[1].rate_limiter.priority = LAST_PRIORITY
    return config


def _onnx_config(name: str, graph: Path, max_batch_size: int = 0) -> ModelConfig:
    """The configuration of an ONNX model, with the names, types and dims of its file."""
    session = _session(graph)
    config = ModelConfig(
        name=name,
        backend="onnxruntime",
        default_model_filename=MODEL_FILE,
        max_batch_size=max_batch_size,
    )
    config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_AUTO)
    for tensors, infos in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        for info in infos:
            if info.type not in TRITON_TYPES:
                raise InvalidData(f"{graph}: '{info.name}' is {info.type}, which Triton lacks")
            dims = [dim if isinstance(dim, int) else -1 for dim in info.shape]
            data_type = DataType.Value(TRITON_TYPES[info.type])
            batched = max_batch_size > 0
            tensors.add(name=info.name, data_type=data_type, dims=dims[1:] if batched else dims)
    return config


def _session(graph: Path) -> onnxruntime.InferenceSession:
    if not graph.is_file():
        raise InvalidData(f"{graph} is missing; train or register the model again")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise InvalidData(f"{graph} cannot be loaded: {error}; register the model again") from error


def _ensemble_config(
    name: str,
    steps: Sequence[Step],
    models: Mapping[str, ModelConfig],
    outputs: tuple[str, ...],
    parameters: Mapping[str, str],
) -> ModelConfig:
    """An ensemble of steps, which takes what the first reads.

    It gives these outputs, and what else the last step writes.
    """
    config = ModelConfig(name=name, platform="ensemble")
    config.input.extend(models[steps[0].name].input)
    given = {*outputs, *steps[-1].writes}
    for step in steps:
        model = models[step.name]
        for tensor, named in zip(model.output, step.writes, strict=False):
            if named in given:
                dims = _shape(tensor, model.max_batch_size)[1]
                config.output.add(name=named, data_type=tensor.data_type, dims=dims)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    for step in steps:
        model = models[step.name]
        scheduled = config.ensemble_scheduling.step.add(model_name=model.name, model_version=-1)
        for tensors, names, passed in (
            (model.input, step.reads, scheduled.input_map),
            (model.output, step.writes, scheduled.output_map),
        ):
            if len(tensors) != len(names):
                raise InvalidData(
                    f"{step.name}.onnx has the tensors {[tensor.name for tensor in tensors]}; "
                    f"expected {len(names)}, for {', '.join(names)}: register the model again"
                )
            for tensor, named in zip(tensors, names, strict=True):
                if named:
                    passed[tensor.name] = named
    return config


def _add(addition: _Addition, repository: Path) -> Exported:
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
    written = model / f".{CONFIG_FILE}.incoming"
    written.write_text(text_format.MessageToString(addition.config))
    os.replace(written, model / CONFIG_FILE)
    return Exported(addition.config.name, addition.version, addition.graph is None, new)


def _addition_problems(additions: list[_Addition]) -> Iterator[str]:
    configs = {addition.config.name: addition.config for addition in additions}
    for addition in additions:
        if addition.graph is None:
            yield from _ensemble_problems(addition.config, configs)
        else:
            yield from _graph_problems(addition.config, addition.graph)


def _repository_problems(repository: Path) -> Iterator[str]:
    for file in sorted(repository.rglob("*.py")):
        yield f"{file}: a repository holds no Python; models are ONNX files"
    configs: dict[str, ModelConfig] = {}
    for path in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        try:
            configs[path.parent.name] = parse_model_config(path.read_text(), path.parent.name)
        except InvalidData as error:
            yield str(error)
    if not configs:
        yield f"{repository} holds no model; run `nuclei export`"
    for name, config in configs.items():
        versions = versions_of(repository / name)
        if config.name != name:
            yield f"{name}: its configuration names it '{config.name}'"
        if not versions:
            yield f"{name}: there is no version folder"
        if config.platform == "ensemble":
            yield from _ensemble_problems(config, configs)
            continue
        for version in versions:
            graph = config.default_model_filename or MODEL_FILE
            yield from _graph_problems(config, repository / name / str(version) / graph)


def _graph_problems(config: ModelConfig, graph: Path) -> Iterator[str]:
    try:
        session = _session(graph)
        versions = read_versions(graph)
    except (NucleiError, ValueError) as error:
        yield f"{config.name}: {error}"
        return
    for misfit in misfits(_as_json(config), versions, session.get_inputs(), session.get_outputs()):
        yield f"{config.name}: {misfit}"


def _as_json(config: ModelConfig) -> dict[str, Any]:
    fields: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return fields


_Shape = tuple[int, tuple[int, ...]]


def _ensemble_problems(config: ModelConfig, configs: Mapping[str, ModelConfig]) -> Iterator[str]:
    """Whether every tensor is made before it is read, as it is read; and read, if it is made."""
    read = {tensor.name for tensor in config.output}
    read |= {ours for step in config.ensemble_scheduling.step for ours in step.input_map.values()}
    made = {tensor.name: _shape(tensor, 0) for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        where = f"{config.name}: step '{step.model_name}'"
        model = configs.get(step.model_name)
        if model is None:
            yield f"{where} is not in the repository"
            return
        inputs = {t.name: _shape(t, model.max_batch_size) for t in model.input}
        outputs = {t.name: _shape(t, model.max_batch_size) for t in model.output}
        if set(step.input_map) != set(inputs):
            yield f"{where} is given {sorted(step.input_map)}; it takes {sorted(inputs)}"
        for theirs, ours in step.input_map.items():
            if ours not in made:
                yield f"{where} reads '{ours}', which no step before it makes"
            elif theirs in inputs and not _shapes_agree(made[ours], inputs[theirs]):
                yield f"{where} reads '{ours}' as another type or shape than it is made"
        for theirs, ours in step.output_map.items():
            if theirs in outputs:
                made[ours] = outputs[theirs]
            else:
                yield f"{where} has no output '{theirs}'"
            if ours not in read:
                yield f"{where} makes '{ours}', which nothing reads"
    for tensor in config.output:
        if tensor.name not in made or not _shapes_agree(made[tensor.name], _shape(tensor, 0)):
            yield f"{config.name}: no step makes output '{tensor.name}' with its type and shape"
    if has_contract(config):
        try:
            contract_of(config)
        except NucleiError as error:
            yield f"{config.name}: {error}"


def _shape(tensor: Any, max_batch_size: int) -> _Shape:
    """Data type, and dims with the batch."""
    batch = (-1,) if max_batch_size else ()
    return tensor.data_type, (*batch, *tensor.dims)


def _shapes_agree(made: _Shape, read: _Shape) -> bool:
    (made_type, made_dims), (read_type, read_dims) = made, read
    return (
        made_type == read_type
        and len(made_dims) == len(read_dims)
        and all(a == b or -1 in (a, b) for a, b in zip(made_dims, read_dims, strict=True))
    )
