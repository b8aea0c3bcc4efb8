"""Triton's model configurations: read from disk or from Triton, with the contract in them."""

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nuclei.errors import InvalidData, ModelNotFound
from nuclei.inference.contract import Contract

CONFIG_FILE = "config.pbtxt"
MODEL_FILE = "model.onnx"
CONTRACT_PARAMETER = "contract"


def parse_model_config(text: str, name: str) -> ModelConfig:
    """Parse the text of a `config.pbtxt`.

    Raises:
        InvalidData: it is not a ModelConfig; `name` says which model's.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise InvalidData(
            f"config.pbtxt of model '{name}' is not a Triton model configuration ({error}); "
            "export the model again"
        ) from error


def contract_of(config: ModelConfig) -> Contract:
    """The contract that travels in the parameters of an ensemble's configuration.

    Raises:
        ModelNotFound: the model has no contract: it is a step of a graph, not a model.
        InvalidData: the contract cannot be read.
    """
    if not has_contract(config):
        raise ModelNotFound(
            f"'{config.name}' is one step of a model and carries no contract; "
            "ask for a model that GetServerInfo or `nuclei models` lists"
        )
    return Contract.from_json(config.parameters[CONTRACT_PARAMETER].string_value)


def has_contract(config: ModelConfig) -> bool:
    return CONTRACT_PARAMETER in config.parameters


def versions_of(model: Path) -> list[int]:
    """The versions in a model's folder of a repository, ascending; may be empty."""
    if not model.is_dir():
        return []
    return sorted(int(folder.name) for folder in model.iterdir() if folder.name.isdigit())
