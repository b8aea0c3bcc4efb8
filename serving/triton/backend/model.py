"""Runs ONNX models inside `tritonserver`, configured like Triton's native onnxruntime backend."""

import ctypes
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

from activity import Activity
from onnx_file import misfits, read_versions
from processor import AUTO, fast_precision, has_bf16, note_precision, read_cpuinfo

OPTIMISATION_LEVELS = {
    "-1": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "1": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "2": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
TENSORRT_PRECISIONS = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}
TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
# Between the start and what can wait: a model that starts again after a failure answers first.
SETTLED_S = 5.0
OPENVINO = "OpenVINOExecutionProvider"
OPENVINO_PRECISIONS = {"FP32": "f32", "BF16": "bf16"}

# Name and shape of each input, by name.
Shapes = tuple[tuple[str, tuple[int, ...]], ...]

# onnxruntime sends usage data to its maker by default.
onnxruntime.disable_telemetry_events()


class TritonPythonModel:
    """One instance of one model; Triton runs each in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session, or refuse what the native backend refuses."""
        self._config = json.loads(args["model_config"])
        self._name = args["model_name"]
        version = Path(args["model_repository"]) / args["model_version"]
        path = version / (self._config.get("default_model_filename") or "model.onnx")
        providers = _providers(self._config, args)
        # Whether requests of the same shapes run as one batch.
        self._joins = self._config.get("max_batch_size", 0) > 0
        self._session: onnxruntime.InferenceSession | OnCores
        if self._joins and providers[0][0] == OPENVINO:
            self._joins = False
            # Read without OpenVINO, which takes half a second of a core to compile a U-Net.
            inputs = self._open(path, providers[1:]).get_inputs()
            try:
                self._session = OnCores(self._config, path, inputs)
            except Exception as error:  # onnxruntime's errors share no base class
                raise self._unloadable(path, error) from None
        else:
            self._session = self._open(path, providers)
        _say_precision(self._config, providers[0][0])
        self._inputs = [tensor["name"] for tensor in self._config["input"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests; those of the same shapes run as one batch."""
        responses: list[Any] = [None] * len(requests)
        for group in self._groups(requests):
            answers = self._answer([requests[index] for index in group])
            for index, answer in zip(group, answers, strict=True):
                responses[index] = answer
        return responses

    def finalize(self) -> None:
        """Let go of the session and its memory."""
        if isinstance(self._session, OnCores):
            self._session.close()
        del self._session

    def _open(
        self, path: Path, providers: list[tuple[str, dict[str, str]]]
    ) -> onnxruntime.InferenceSession:
        try:
            versions = read_versions(path)
            session = onnxruntime.InferenceSession(
                str(path), _session_options(self._config), providers=providers
            )
        except FileNotFoundError:
            raise self._refusal(f"there is no {path.name} in version {path.parent.name}") from None
        except Exception as error:  # onnxruntime's errors share no base class
            raise self._unloadable(path, error) from None
        missing = {name for name, _ in providers} - set(session.get_providers())
        if missing:
            raise self._refusal(f"onnxruntime could not start {', '.join(sorted(missing))}")
        found = list(misfits(self._config, versions, session.get_inputs(), session.get_outputs()))
        if found:
            raise self._refusal("; ".join(found))
        return session

    def _unloadable(self, path: Path, error: Exception) -> Exception:
        return self._refusal(f"{path.name} cannot be loaded: {_first_line(error)}")

    def _refusal(self, reason: str) -> Exception:
        return pb_utils.TritonModelException(f"model '{self._name}': {reason}")

    def _groups(self, requests: list[Any]) -> list[list[int]]:
        """Indices of the requests that can run together."""
        if not self._joins:
            return [[index] for index in range(len(requests))]
        groups: dict[Any, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[_shapes(request)].append(index)
        return list(groups.values())

    def _answer(self, requests: list[Any]) -> list[Any]:
        given = [
            {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            for request in requests
        ]
        feeds = {name: _joined([tensors[name] for tensors in given]) for name in self._inputs}
        wanted = sorted({name for request in requests for name in request.requested_output_names()})
        try:
            outputs = dict(zip(wanted, self._session.run(wanted, feeds), strict=True))
        except Exception as error:  # onnxruntime's errors share no base class
            return [self._failure(error, feeds)] * len(requests)
        ends = np.cumsum([len(tensors[self._inputs[0]]) for tensors in given])[:-1]
        parts = {
            name: np.split(values, ends) if len(requests) > 1 else [values]
            for name, values in outputs.items()
        }
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, parts[name][k]) for name in request.requested_output_names()]
            )
            for k, request in enumerate(requests)
        ]

    def _failure(self, error: Exception, feeds: dict[str, np.ndarray]) -> Any:
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in feeds.items())
        pb_utils.Logger.log_error(f"model '{self._name}' failed for {shapes}: {error}")
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError(
                f"model '{self._name}' failed for {shapes}; the server's log says why",
                pb_utils.TritonError.INTERNAL,
            )
        )


class OnCores:
    """Runs a batch with OpenVINO in the way that is fastest on a CPU; used like a session.

    The images run one after the other, because a batch falls out of the caches. Each uses all
    cores, or this instance's share of them while other instances of the model are at work: two
    images on a core each are done sooner than one after the other on both cores, which wait for
    each other in every layer. There is a session for each shape that the configuration warms up,
    which takes a tenth off the time, and one for any shape, compiled for the first image that needs
    it. Those for a share of the cores change the time, not the answers: they are compiled later,
    one by one, as answers wait meanwhile.
    """

    def __init__(self, config: dict[str, Any], path: Path, inputs: list[Any]) -> None:
        """Compile the sessions.

        Args:
            config: the model's configuration.
            path: its ONNX file.
            inputs: what the file takes, as `InferenceSession.get_inputs`.
        """
        self._activity = Activity(path)
        self._instances = sum(group["count"] for group in config["instance_group"])
        self._warmed_up = _warmed_up(config)
        self._compiled = partial(_compiled, config, path, inputs)
        self._sessions = {
            (1, shapes): self._compiled(1, shapes) for shapes in self._warmed_up or [()]
        }
        self._closed = Event()
        self._compiling = Thread(target=self._compile_shares)
        self._compiling.start()

    def close(self) -> None:
        """End what is still being compiled."""
        self._closed.set()
        self._compiling.join()

    def run(self, wanted: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The wanted outputs of a batch, as the method `run` of a session."""
        images = [
            {name: values[k : k + 1] for name, values in feeds.items()}
            for k in range(len(next(iter(feeds.values()))))
        ]
        answers = [self._run_one(wanted, image) for image in images]
        return [_joined(list(values)) for values in zip(*answers, strict=True)]

    def _run_one(self, wanted: list[str], image: dict[str, np.ndarray]) -> list[np.ndarray]:
        shapes = _by_name((name, values.shape) for name, values in image.items())
        with self._activity.working() as others_work:
            share = self._instances if others_work else 1
            shapes = shapes if shapes in self._warmed_up else ()
            if (1, shapes) not in self._sessions:
                self._sessions[1, shapes] = self._compiled(1, shapes)
            session = self._sessions.get((share, shapes)) or self._sessions[1, shapes]
            return session.run(wanted, image)

    def _compile_shares(self) -> None:
        if self._instances == 1:
            return
        for shapes in [*self._warmed_up, ()]:
            if not self._closed.wait(SETTLED_S):
                self._sessions[self._instances, shapes] = self._compiled(self._instances, shapes)
        # What compiling took from this thread's arena would never be used again: 95 MB of a U-Net.
        ctypes.CDLL(None).malloc_trim(0)


def _warmed_up(config: dict[str, Any]) -> list[Shapes]:
    """Shapes of the single images that the configuration warms up."""
    return [
        _by_name(
            (name, (1, *map(int, tensor["dims"]))) for name, tensor in warm_up["inputs"].items()
        )
        for warm_up in config.get("model_warmup", [])
    ]


def _compiled(
    config: dict[str, Any], path: Path, inputs: list[Any], share: int, shapes: Shapes
) -> onnxruntime.InferenceSession:
    """A session on 1/share of the cores, for these shapes; none is any."""
    options = _session_options(config)
    wanted = dict(shapes)
    for tensor in inputs:
        for dim, length in zip(tensor.shape, wanted.get(tensor.name, ()), strict=False):
            if isinstance(dim, str):
                options.add_free_dimension_override_by_name(dim, length)
    provider = _openvino(config, share)
    return onnxruntime.InferenceSession(str(path), options, providers=[provider])


def _shapes(request: Any) -> Shapes:
    """Shapes of the inputs without the batch, whatever the order of the inputs."""
    return _by_name((tensor.name(), tuple(tensor.shape()[1:])) for tensor in request.inputs())


def _by_name(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> Shapes:
    return tuple(sorted(shapes))


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _session_options(config: dict[str, Any]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _number(config, "intra_op_thread_count")
    options.inter_op_num_threads = _number(config, "inter_op_thread_count")
    if _number(config, "execution_mode"):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = bool(_number(config, "enable_mem_arena", 1))
    options.enable_mem_pattern = bool(_number(config, "enable_mem_pattern", 1))
    level = str(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = OPTIMISATION_LEVELS.get(
        level, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    return options


def _number(config: dict[str, Any], name: str, default: int = 0) -> int:
    text = config.get("parameters", {}).get(name, {}).get("string_value", "")
    try:
        return int({"": default, "true": 1, "false": 0}.get(text.lower(), text))
    except ValueError:
        raise pb_utils.TritonModelException(
            f"model '{config['name']}': parameter {name} is '{text}'; expected a whole number"
        ) from None


def _providers(config: dict[str, Any], args: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Execution providers in the order they are tried, each with its options."""
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    providers = []
    if args["model_instance_kind"] == "GPU":
        providers += _gpu_providers(config, accelerators, args["model_instance_device_id"])
    for accelerator in accelerators.get("cpu_execution_accelerator", []):
        if accelerator["name"] != "openvino":
            raise _unknown(config, accelerator["name"], "openvino")
        providers.append(_openvino(config))
    return [*providers, ("CPUExecutionProvider", {})]


def _gpu_providers(
    config: dict[str, Any], accelerators: dict[str, Any], device: str
) -> list[tuple[str, dict[str, str]]]:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pb_utils.Logger.log_warn(
            f"model '{config['name']}' runs on the CPU: this onnxruntime is not built for CUDA"
        )
        return []
    providers, cuda = [], {"device_id": device}
    for accelerator in accelerators.get("gpu_execution_accelerator", []):
        parameters = accelerator.get("parameters", {})
        if accelerator["name"] == "tensorrt":
            options = {"device_id": device, **_tensorrt_options(config, parameters)}
            providers.append(("TensorrtExecutionProvider", options))
        elif accelerator["name"] == "cuda":
            cuda |= parameters
        else:
            raise _unknown(config, accelerator["name"], "tensorrt or cuda")
    return [*providers, ("CUDAExecutionProvider", cuda)]


def _tensorrt_options(config: dict[str, Any], parameters: dict[str, str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parameters.items():
        if name == "precision_mode":
            options |= _precision(config, TENSORRT_PRECISIONS, value)
        else:
            options[TENSORRT_NAMES.get(name, name)] = value
    return options


def _openvino(config: dict[str, Any], share: int = 1) -> tuple[str, dict[str, str]]:
    if OPENVINO not in onnxruntime.get_available_providers():
        raise pb_utils.TritonModelException(
            f"model '{config['name']}': this onnxruntime is not built with OpenVINO"
        )
    precision = OPENVINO_PRECISIONS[_openvino_precision(config)]
    # Pinned threads of two instances would share the first core.
    properties = {"INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False}
    threads = _number(config, "intra_op_thread_count")
    if share > 1:
        threads = max(1, (threads or len(os.sched_getaffinity(0))) // share)
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    options = {"device_type": "CPU", "load_config": json.dumps({"CPU": properties})}
    return OPENVINO, options


def _say_precision(config: dict[str, Any], provider: str) -> None:
    """Say in which precision a model computes on a processor: in Triton's log and in a file.

    On a GPU that is up to the provider.
    """
    if provider not in (OPENVINO, "CPUExecutionProvider"):
        return
    used = _openvino_precision(config) if provider == OPENVINO else "FP32"
    said = f"model '{config['name']}' computes in {used}"
    if used == "BF16" and not has_bf16(read_cpuinfo()):
        pb_utils.Logger.log_warn(
            f"{said}, which this processor emulates, several times slower than FP32: let the "
            f"precision in its configuration be {AUTO}"
        )
    else:
        pb_utils.Logger.log_info(said)
    note_precision(Path.cwd(), config["name"], used.lower())


def _openvino_precision(config: dict[str, Any]) -> str:
    """The precision that the configuration asks OpenVINO for, or leaves to this processor."""
    accelerators = config["optimization"]["execution_accelerators"]["cpu_execution_accelerator"]
    wanted: str = accelerators[0].get("parameters", {}).get("precision", "FP32")
    known = {AUTO: fast_precision(read_cpuinfo()), **{name: name for name in OPENVINO_PRECISIONS}}
    used: str = _precision(config, known, wanted)
    return used


def _precision(config: dict[str, Any], known: dict[str, Any], value: str) -> Any:
    if value not in known:
        raise pb_utils.TritonModelException(
            f"model '{config['name']}': unknown precision '{value}'; "
            f"expected one of {', '.join(known)}"
        )
    return known[value]


def _unknown(config: dict[str, Any], accelerator: str, expected: str) -> Exception:
    return pb_utils.TritonModelException(
        f"model '{config['name']}': unknown execution accelerator '{accelerator}'; "
        f"expected {expected}"
    )
