"""What Triton would refuse to load, here and in NVIDIA's container; found without a server."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelEnsembling
from tritonclient.utils import np_to_triton_dtype

from nuclei.errors import InvalidData, NucleiError
from nuclei.inference.contract import Contract
from nuclei.inference.graph import (
    IMAGE,
    INPUT,
    MAPS,
    RANGE,
    TENSORS,
    TTA_SUFFIX,
    VIEWS,
    graph_name,
)
from nuclei.inference.model_config import (
    CONFIG_FILE,
    CONTRACT_PARAMETER,
    ENSEMBLE,
    MODEL_FILE,
    ROUTING_PARAMETER,
    contract_of,
    read_model_config,
    routing_of,
    versions_of,
)
from serving.repository.configuration import TensorShape, open_session, tensor_shape
from serving.triton.backend.onnx_file import misfits, read_versions


def check_repository(repository: Path) -> None:
    """Check that a repository is one that Triton loads, here and in NVIDIA's container.

    Raises:
        InvalidData: every problem found, one a line.
    """
    _raise_if_any(_repository_problems(repository))


def check_models(models: Sequence[tuple[ModelConfig, Path | None]]) -> None:
    """Check models before they are added together.

    Args:
        models: configurations, each with its ONNX file; an ensemble has none.

    Raises:
        InvalidData: every problem found, one a line.
    """
    _raise_if_any(_model_problems(models))


def _raise_if_any(problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        raise InvalidData("\n".join(found))


def _model_problems(models: Sequence[tuple[ModelConfig, Path | None]]) -> Iterator[str]:
    configs = {config.name: config for config, _ in models}
    for config, graph in models:
        if graph is None:
            yield from _ensemble_problems(config, configs)
        else:
            yield from _graph_problems(config, graph)


def _repository_problems(repository: Path) -> Iterator[str]:
    for file in sorted(repository.rglob("*.py")):
        yield f"{file}: a repository holds no Python; models are ONNX files"
    configs: dict[str, ModelConfig] = {}
    for path in sorted(repository.glob(f"*/{CONFIG_FILE}")):
        try:
            configs[path.parent.name] = read_model_config(path)
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
        if config.platform == ENSEMBLE:
            yield from _ensemble_problems(config, configs)
            yield from _version_problems(config, configs, repository)
            continue
        for version in versions:
            graph = config.default_model_filename or MODEL_FILE
            yield from _graph_problems(config, repository / name / str(version) / graph)


def _graph_problems(config: ModelConfig, graph: Path) -> Iterator[str]:
    """Whether a configuration fits its ONNX file."""
    try:
        session = open_session(graph)
        versions = read_versions(graph)
    except (NucleiError, ValueError) as error:
        yield f"{config.name}: {error}"
        return
    fields: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    for misfit in misfits(fields, versions, session.get_inputs(), session.get_outputs()):
        yield f"{config.name}: {misfit}"


def _ensemble_problems(config: ModelConfig, configs: Mapping[str, ModelConfig]) -> Iterator[str]:
    """Whether every tensor is made before it is read, as it is read; and read, if it is made."""
    steps = config.ensemble_scheduling.step
    missing = {step.model_name for step in steps} - set(configs)
    if missing:
        for name in sorted(missing):
            yield f"{config.name}: step '{name}' is not in the repository"
        return
    read = {tensor.name for tensor in config.output}
    read |= {ours for step in steps for ours in step.input_map.values()}
    made = _shapes(config.input)
    for step in steps:
        model = configs[step.model_name]
        inputs = _shapes(model.input, model.max_batch_size)
        outputs = _shapes(model.output, model.max_batch_size)
        where = f"{config.name}: step '{step.model_name}'"
        for problem in (*_input_problems(step, inputs, made), *_output_problems(step, outputs)):
            yield f"{where} {problem}"
        for ours in sorted(set(step.output_map.values()) - read):
            yield f"{where} makes '{ours}', which nothing reads"
        made |= {ours: outputs[name] for name, ours in step.output_map.items() if name in outputs}
    for tensor in config.output:
        if tensor.name not in made or not _agree(made[tensor.name], tensor_shape(tensor, 0)):
            yield f"{config.name}: no step makes output '{tensor.name}' with its type and shape"
    if CONTRACT_PARAMETER in config.parameters:
        try:
            contract = contract_of(config)
        except InvalidData as error:
            yield f"{config.name}: {error}"
        else:
            for problem in (
                *_outside_problems(config, contract),
                *_network_problems(steps, configs),
            ):
                yield f"{config.name}: {problem}"


def _outside_problems(config: ModelConfig, contract: Contract) -> Iterator[str]:
    """Whether a graph takes what the pipeline gives, and gives what its post-processing reads."""
    given = {tensor.name: tensor for tensor in (*config.input, *config.output)}
    is_tta = config.name.endswith(TTA_SUFFIX)
    for name in (IMAGE, RANGE, *contract.method.outputs_for(is_tta)):
        kind, axes = TENSORS[name]
        data_type = DataType.Value(f"TYPE_{np_to_triton_dtype(kind)}")
        tensor = given.get(name)
        if tensor is None:
            yield f"there is no tensor '{name}', which {contract.method.name} needs"
        elif tensor.data_type != data_type or len(tensor.dims) != axes:
            yield (
                f"'{name}' is {DataType.Name(tensor.data_type)} {list(tensor.dims)}; expected "
                f"{DataType.Name(data_type)} with {axes} axes"
            )
        elif name == MAPS and tensor.dims[1] not in (-1, len(contract.maps)):
            yield (
                f"'{name}' has {tensor.dims[1]} maps, and the contract names {len(contract.maps)}: "
                f"{', '.join(contract.maps)}"
            )


def _network_problems(
    steps: Iterable[ModelEnsembling.Step], configs: Mapping[str, ModelConfig]
) -> Iterator[str]:
    """Whether networks take images of grey and of colour, and of all sizes."""
    for step in steps:
        for tensor in configs[step.model_name].input:
            fixed = [dim for dim in tensor.dims[-3:] if dim != -1]
            if step.input_map.get(tensor.name) in (INPUT, VIEWS) and fixed:
                yield (
                    f"step '{step.model_name}' takes '{tensor.name}' as {list(tensor.dims)} only; "
                    "expected channels (1 or 3), height and width that vary"
                )


def _version_problems(
    config: ModelConfig, configs: Mapping[str, ModelConfig], repository: Path
) -> Iterator[str]:
    """Whether the versions that an ensemble names are there."""
    for step in config.ensemble_scheduling.step:
        wanted = step.model_version
        if wanted != -1 and wanted not in versions_of(repository / step.model_name):
            yield f"{config.name}: step '{step.model_name}' has no version {wanted}"
    if ROUTING_PARAMETER not in config.parameters:
        return
    try:
        routing = routing_of(config)
    except InvalidData as error:
        yield f"{config.name}: {error}"
        return
    model = config.name.removesuffix(TTA_SUFFIX)
    graph = graph_name(model, routing.champion, tta=config.name != model)
    if graph not in configs:
        yield f"{config.name}: its champion '{graph}' is not in the repository"


def _input_problems(
    step: ModelEnsembling.Step,
    inputs: Mapping[str, TensorShape],
    made: Mapping[str, TensorShape],
) -> Iterator[str]:
    """Whether a step is given all of its inputs, each made before it with its type and shape."""
    if set(step.input_map) != set(inputs):
        yield f"is given {sorted(step.input_map)}; it takes {sorted(inputs)}"
    for theirs, ours in step.input_map.items():
        if ours not in made:
            yield f"reads '{ours}', which no step before it makes"
        elif theirs in inputs and not _agree(made[ours], inputs[theirs]):
            yield f"reads '{ours}' as another type or shape than it is made"


def _output_problems(
    step: ModelEnsembling.Step, outputs: Mapping[str, TensorShape]
) -> Iterator[str]:
    for theirs in step.output_map:
        if theirs not in outputs:
            yield f"has no output '{theirs}'"


def _shapes(tensors: Iterable[Any], max_batch_size: int = 0) -> dict[str, TensorShape]:
    return {tensor.name: tensor_shape(tensor, max_batch_size) for tensor in tensors}


def _agree(made: TensorShape, read: TensorShape) -> bool:
    (made_type, made_dims), (read_type, read_dims) = made, read
    return (
        made_type == read_type
        and len(made_dims) == len(read_dims)
        and all(a == b or -1 in (a, b) for a, b in zip(made_dims, read_dims, strict=True))
    )
