"""The config.pbtxt of a step of a graph, and of an ensemble of steps."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import onnxruntime
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from nuclei.errors import InvalidData
from nuclei.inference.contract import Contract
from nuclei.inference.graph import DECODER, Step, StepFile, step_name
from nuclei.inference.model_config import (
    CONTRACT_PARAMETER,
    ENSEMBLE,
    MODEL_FILE,
    ROUTING_PARAMETER,
    THREADS_PARAMETER,
)
from nuclei.inference.routing import Routing
from nuclei.processor import AUTO
from nuclei.quoting import sentence
from serving.repository.files import MAX_GRAPH_BYTES, check_file
from serving.triton.backend.onnx_file import TRITON_TYPES

MAX_BATCH_SIZE = 16
# Of frames that many cameras give, height and width, pixels: their tiles are warmed up.
COMMON_FRAME = 512, 512
# An instance of priority n works one nth as often, unless the others are busy.
LAST_PRIORITY = 1000

# Data type, and dims with the batch; -1 is any length.
TensorShape = tuple[int, tuple[int, ...]]


class CpuAccelerator(StrEnum):
    """What runs the network on a CPU; a GPU runs it with CUDA in any case."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    OPENVINO_FP32 = "openvino-fp32"
    OPENVINO_BF16 = "openvino-bf16"


DEFAULT_CPU_ACCELERATOR = CpuAccelerator.OPENVINO
_OPENVINO_PRECISIONS = {
    CpuAccelerator.OPENVINO: AUTO,
    CpuAccelerator.OPENVINO_FP32: "FP32",
    CpuAccelerator.OPENVINO_BF16: "BF16",
}


def shared_step_config(name: str, graph: Path) -> ModelConfig:
    """The configuration of a step without weights, which models share.

    Raises:
        InvalidData: the ONNX file cannot be loaded, or has a type that Triton lacks.
    """
    config = _onnx_config(name, graph)
    # The ensembles of each version name the version of a step that they were checked with.
    config.version_policy.all.SetInParent()
    # Idle threads of small steps would spin beside the network.
    config.parameters[THREADS_PARAMETER].string_value = "1"
    return config


def network_config(
    contract: Contract, file: StepFile, version: int, graph: Path, accelerator: CpuAccelerator
) -> ModelConfig:
    """The configuration of a step that holds weights; raises as `shared_step_config`."""
    name = step_name(contract.family, file, version)
    config = _onnx_config(name, graph, MAX_BATCH_SIZE if file.batched else 0)
    if file.batched:
        # No delay: what waits while a batch runs is the next batch.
        config.dynamic_batching.SetInParent()
    if file != DECODER:
        _add_warm_up(config, contract.plan(*COMMON_FRAME).shape, file.batched)
    if file.batched and accelerator in _OPENVINO_PRECISIONS:
        _add_openvino(config, _OPENVINO_PRECISIONS[accelerator])
    return config


def ensemble_config(
    name: str,
    steps: Sequence[Step],
    models: Mapping[str, tuple[ModelConfig, int]],
    outputs: Sequence[str],
    parameters: Mapping[str, str],
) -> ModelConfig:
    """The configuration of an ensemble, whose inputs are those of the first step.

    Args:
        name: of the ensemble.
        steps: in the order in which they run.
        models: configuration and version of each step's model, by name of the step.
        outputs: tensors that it returns, besides all that the last step writes.
        parameters: kept in the configuration.

    Raises:
        InvalidData: an ONNX file has more or fewer tensors than its step.
    """
    config = ModelConfig(name=name, platform=ENSEMBLE)
    config.input.extend(models[steps[0].file.name][0].input)
    returned = {*outputs, *steps[-1].writes}
    for step in steps:
        model, _ = models[step.file.name]
        for tensor, written in zip(model.output, step.writes, strict=False):
            if written in returned:
                dims = tensor_shape(tensor, model.max_batch_size)[1]
                config.output.add(name=written, data_type=tensor.data_type, dims=dims)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    for step in steps:
        _add_step(config, step, *models[step.file.name])
    return config


def plain_config(name: str, of_version: ModelConfig, routing: Routing) -> ModelConfig:
    """The configuration of the ensemble that bears a model's plain name: its champion.

    Args:
        name: of the ensemble.
        of_version: the ensemble of the champion.
        routing: kept in the configuration.
    """
    config = ModelConfig()
    config.CopyFrom(of_version)
    config.name = name
    config.version_policy.specific.versions.append(routing.champion)
    del config.parameters[CONTRACT_PARAMETER]
    config.parameters[ROUTING_PARAMETER].string_value = routing.to_json()
    return config


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """The session of an ONNX file, to read its tensors.

    It is loaded from its bytes, which lets onnxruntime look at no other file: weights that lie
    outside of it would not be served.

    Raises:
        InvalidData: the file is missing, a link, too large, or cannot be loaded.
    """
    # onnxruntime sends usage data to its maker by default.
    onnxruntime.disable_telemetry_events()
    check_file(graph, MAX_GRAPH_BYTES)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            graph.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no base class
        raise InvalidData(
            f"{graph} cannot be loaded: {sentence(error)}; register the model again"
        ) from error


def tensor_shape(tensor: Any, max_batch_size: int) -> TensorShape:
    """Data type and dims of a tensor of a configuration, with the batch where there is one."""
    batch = (-1,) if max_batch_size else ()
    return tensor.data_type, (*batch, *tensor.dims)


def _onnx_config(name: str, graph: Path, max_batch_size: int = 0) -> ModelConfig:
    """The configuration of an ONNX model, with the names, types and dims of its file."""
    session = open_session(graph)
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


def _add_warm_up(config: ModelConfig, shape: tuple[int, int], batched: bool) -> None:
    """Let the first frames find everything compiled, for grey and for colour.

    With zeros: random bytes hold infinities, from which detectors make invalid boxes.
    """
    image = config.input[0]
    for channels in (1, 3):
        warm_up = config.model_warmup.add(name=f"{channels} channels", batch_size=1)
        tensor = warm_up.inputs[image.name]
        tensor.data_type, tensor.zero_data = image.data_type, True
        tile = (channels, *shape)
        tensor.dims.extend(tile if batched else (1, *tile))


def _add_openvino(config: ModelConfig, precision: str) -> None:
    """Let OpenVINO run it on a CPU, in two instances that work on an image each.

    A single image always goes to the same instance, whose caches are warm.
    """
    accelerators = config.optimization.execution_accelerators
    openvino = accelerators.cpu_execution_accelerator.add(name="openvino")
    openvino.parameters["precision"] = precision
    config.instance_group[0].rate_limiter.priority = 1
    config.instance_group.add(count=1, kind=ModelInstanceGroup.KIND_AUTO)
    config.instance_group[1].rate_limiter.priority = LAST_PRIORITY


def _add_step(config: ModelConfig, step: Step, model: ModelConfig, version: int) -> None:
    """Add a step to an ensemble, its tensors renamed to those of the graph."""
    scheduled = config.ensemble_scheduling.step.add(model_name=model.name, model_version=version)
    for tensors, names, renamed in (
        (model.input, step.reads, scheduled.input_map),
        (model.output, step.writes, scheduled.output_map),
    ):
        if len(tensors) != len(names):
            raise InvalidData(
                f"{step.file.filename} has the tensors {[tensor.name for tensor in tensors]}; "
                f"expected {len(names)}, for {', '.join(names)}: register the model again"
            )
        for tensor, name in zip(tensors, names, strict=True):
            if name:
                renamed[tensor.name] = name
