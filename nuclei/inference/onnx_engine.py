"""The engine that runs a Triton model repository in this process, without a server."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nuclei.errors import EngineFailed, InvalidData, ModelNotFound
from nuclei.inference.deadline import Deadline
from nuclei.inference.engine import ServedVersion
from nuclei.inference.graph import IMAGE, RANGE, graph_name
from nuclei.inference.model_config import (
    CONFIG_FILE,
    MODEL_FILE,
    contract_of,
    is_model,
    read_model_config,
    routing_of,
    threads_of,
    versions_of,
)
from nuclei.postprocessing.accumulation import Outputs
from nuclei.quoting import quoted, sentence
from nuclei.repository import searched

Tensors = dict[str, NDArray[Any]]


class LocalEngine:
    """Runs ensembles of ONNX models with onnxruntime, as their `config.pbtxt` chain them.

    Sessions and configurations are read once, at first use. One image runs at a time, on the
    threads that each model's configuration asks for.
    """

    def __init__(self, repository: Path, threads: int = 0) -> None:
        """Open a repository.

        Args:
            repository: folder of Triton models: `<model>/config.pbtxt`, `<model>/<version>/`.
            threads: of models that ask for none; 0 leaves it to onnxruntime, which takes all
                processors of the machine, also where the process may not use all.

        Raises:
            InvalidData: there is no model in it.
        """
        onnxruntime.disable_telemetry_events()
        self._repository = repository
        self._threads = threads
        if not self._names():
            raise InvalidData(
                f"no models in {searched(repository)}; expected folders with a {CONFIG_FILE}: "
                "name a model repository (--repository), or make one with `nuclei export`"
            )
        self._configs: dict[str, ModelConfig] = {}
        self._served: dict[tuple[str, int | None], ServedVersion] = {}
        self._sessions: dict[tuple[str, int], onnxruntime.InferenceSession] = {}
        self._running = threading.Lock()

    def find(self, model: str, version: int | None = None) -> ServedVersion:
        """A version of a model.

        Args:
            model: its name.
            version: None for the one that the name means.

        Raises:
            ModelNotFound: no such model, or no such version of it; a step of a model is none.
            InvalidData: its configuration cannot be used.
        """
        if (model, version) not in self._served:
            self._served[model, version] = self._find(model, version)
        return self._served[model, version]

    def _find(self, model: str, version: int | None) -> ServedVersion:
        if model not in self.models():
            raise ModelNotFound(
                f"there is no model {quoted(model)} in {self._repository}; "
                f"expected one of: {', '.join(self.models())}"
            )
        number = version or routing_of(self._config(model)).champion
        graph = graph_name(model, number)
        if graph not in self._names():
            raise ModelNotFound(
                f"'{model}' has no version {number} in {self._repository}; see `nuclei models`"
            )
        return ServedVersion(model, str(number), graph, contract_of(self._config(graph)))

    async def infer(
        self,
        graph: str,
        outputs: tuple[str, ...],
        image: NDArray[np.uint16],
        intensity: NDArray[np.float32],
        deadline: Deadline,
    ) -> Outputs:
        """Run one tile through an ensemble.

        Args:
            graph: name of the ensemble.
            outputs: names of the tensors to return.
            image: uint16 [H, W, C], C 1 or 3.
            intensity: float32 [2], the range [lo, hi].
            deadline: when the caller gives up; checked between the steps.

        Raises:
            ModelNotFound: there is no such graph.
            InvalidData: its configuration or a file cannot be used.
            DeadlineExceeded: the time ran out.
            EngineFailed: onnxruntime failed.
        """
        tensors: Tensors = {IMAGE: image, RANGE: intensity}
        made = await asyncio.to_thread(self._run_graph, graph, tensors, deadline)
        if lacking := [name for name in outputs if name not in made]:
            raise InvalidData(
                f"'{graph}' does not give {', '.join(lacking)}; export the model again"
            )
        return {name: made[name] for name in outputs}

    def models(self) -> list[str]:
        """Names of the models, sorted."""
        return [name for name in self._names() if is_model(self._config(name))]

    def _names(self) -> list[str]:
        return sorted(path.parent.name for path in self._repository.glob(f"*/{CONFIG_FILE}"))

    def _run_graph(self, graph: str, tensors: Tensors, deadline: Deadline) -> Tensors:
        with self._running:
            return self._run(graph, tensors, deadline)

    def _run(self, name: str, tensors: Tensors, deadline: Deadline) -> Tensors:
        config = self._config(name)
        if config.ensemble_scheduling.step:
            return self._run_steps(config, tensors, deadline)
        return self._run_step(name, -1, tensors, deadline)

    def _run_step(self, name: str, version: int, tensors: Tensors, deadline: Deadline) -> Tensors:
        if self._config(name).ensemble_scheduling.step:
            raise InvalidData(f"'{name}' is no step but an ensemble; export the model again")
        deadline.check(f"before step '{name}'")
        session = self._session(name, version)
        outputs = [output.name for output in session.get_outputs()]
        try:
            return dict(zip(outputs, session.run(outputs, tensors), strict=True))
        except Exception as error:  # onnxruntime's errors share no base class
            raise EngineFailed(f"step '{name}' failed in onnxruntime: {sentence(error)}") from error

    def _run_steps(self, config: ModelConfig, inputs: Tensors, deadline: Deadline) -> Tensors:
        tensors = dict(inputs)
        try:
            for step in config.ensemble_scheduling.step:
                given = {theirs: tensors[ours] for theirs, ours in step.input_map.items()}
                made = self._run_step(step.model_name, step.model_version, given, deadline)
                tensors |= {ours: made[theirs] for theirs, ours in step.output_map.items()}
            return {output.name: tensors[output.name] for output in config.output}
        except KeyError as error:
            raise InvalidData(
                f"model '{config.name}': no step makes the tensor {quoted(error.args[0])}; export "
                "the model again"
            ) from error

    def _config(self, name: str) -> ModelConfig:
        if name not in self._configs:
            if name not in self._names():
                raise ModelNotFound(f"there is no model {quoted(name)} in {self._repository}")
            self._configs[name] = read_model_config(self._repository / name / CONFIG_FILE)
        return self._configs[name]

    def _session(self, name: str, wanted: int) -> onnxruntime.InferenceSession:
        """The session of a version of a step; -1 is the version that Triton would serve."""
        config = self._config(name)
        version = self._version(name) if wanted == -1 else wanted
        if (name, version) not in self._sessions:
            file = config.default_model_filename or MODEL_FILE
            path = self._repository / name / str(version) / file
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads_of(config) or self._threads
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            try:
                self._sessions[name, version] = onnxruntime.InferenceSession(
                    path, options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime's errors share no base class
                raise InvalidData(
                    f"{path} cannot be loaded: {sentence(error)}; export it again"
                ) from error
        return self._sessions[name, version]

    def _version(self, name: str) -> int:
        """The version Triton would serve: the one its policy names, else the highest."""
        policy = self._config(name).version_policy
        versions = list(policy.specific.versions) or versions_of(self._repository / name)
        if not versions:
            raise InvalidData(f"model '{name}' has no version folder; export it again")
        return max(versions)
