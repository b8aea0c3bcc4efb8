"""What Triton would refuse to load, here and in NVIDIA's container; found without a server."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelEnsembling

from nuclei.errors import InvalidData, NucleiError
from nuclei.inference.graph import TTA_SUFFIX, graph_name
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
            contract_of(config)
        except InvalidData as error:
            yield f"{config.name}: {error}"


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
