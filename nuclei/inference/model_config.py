"""Triton's model configurations: read from disk or from Triton, with the contract in them."""

from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nuclei.errors import InvalidData
from nuclei.inference.graph import TTA_SUFFIX
from nuclei.names import is_name
from nuclei.quoting import quoted, sentence

if TYPE_CHECKING:
    from nuclei.inference.contract import Contract
    from nuclei.inference.routing import Routing

CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "model.onnx"
# Of the ensembles of a version, and of those that bear the model's plain name.
CONTRACT_PARAMETER = "contract"
ROUTING_PARAMETER = "routing"
THREADS_PARAMETER = "intra_op_thread_count"
ENSEMBLE = "ensemble"
# The longest contract, and as much again for its escapes.
MAX_CONFIG_BYTES = 2**27
MAX_THREADS = 1024


def read_model_config(path: Path) -> ModelConfig:
    """Read a `config.pbtxt`; raises InvalidData as `parse_model_config`, or when it is missing."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror}") from error
    return parse_model_config(text, path.parent.name)


def parse_model_config(text: str | bytes, name: str) -> ModelConfig:
    """Parse the text of a `config.pbtxt`.

    Args:
        text: of the file.
        name: of the model's folder.

    Raises:
        InvalidData: it is not a ModelConfig, or what it names cannot be a model or a file.
    """
    try:
        if len(text) > MAX_CONFIG_BYTES:
            raise ValueError(f"it has more than {MAX_CONFIG_BYTES} bytes")
        config = text_format.Parse(text, ModelConfig())
        _check(config, name)
    # text_format raises many kinds for what is not text of its own.
    except (text_format.Error, ValueError, RecursionError, OverflowError) as error:
        raise InvalidData(
            f"config.pbtxt of model {quoted(name)} is not a Triton model configuration "
            f"({sentence(error)}); export the model again"
        ) from error
    return config


def contract_of(config: ModelConfig) -> "Contract":
    """The contract that travels in the parameters of the ensembles of a version.

    Raises:
        InvalidData: there is none, or it cannot be used.
    """
    if CONTRACT_PARAMETER not in config.parameters:
        raise InvalidData(f"{quoted(config.name)} carries no contract; export the model again")
    # Its methods of post-processing are compiled code: whoever needs names only does without.
    from nuclei.inference.contract import Contract

    return Contract.from_json(config.parameters[CONTRACT_PARAMETER].string_value)


def routing_of(config: ModelConfig) -> "Routing":
    """Which version a model's plain name means; raises InvalidData when that cannot be read."""
    from nuclei.inference.routing import Routing

    return Routing.from_json(config.parameters[ROUTING_PARAMETER].string_value)


def is_model(config: ModelConfig) -> bool:
    """Whether callers can ask for it by this name; else it is a version, a variant or a step."""
    return ROUTING_PARAMETER in config.parameters and not config.name.endswith(TTA_SUFFIX)


def threads_of(config: ModelConfig) -> int:
    """Threads that a model asks for; 0 leaves it to onnxruntime."""
    if THREADS_PARAMETER not in config.parameters:
        return 0
    return int(config.parameters[THREADS_PARAMETER].string_value or 0)


def versions_of(model: Path) -> list[int]:
    """The versions in a model's folder of a repository, ascending; may be empty."""
    if not model.is_dir():
        return []
    return sorted(int(folder.name) for folder in model.iterdir() if _is_version(folder.name))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 20


def _check(config: ModelConfig, folder: str) -> None:
    """Raises ValueError for names that lead out of the repository, and for impossible numbers."""
    steps = config.ensemble_scheduling.step
    for name in (folder, config.name, *(step.model_name for step in steps)):
        if not is_name(name):
            raise ValueError(f"{quoted(name)} is no name of a model")
    if config.default_model_filename and not is_name(config.default_model_filename):
        raise ValueError(f"{quoted(config.default_model_filename)} is no name of a file")
    if not 0 <= threads_of(config) <= MAX_THREADS:
        raise ValueError(f"{THREADS_PARAMETER} is not between 0 and {MAX_THREADS}")
