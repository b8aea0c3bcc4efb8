"""The configurations of steps and ensembles."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from nuclei.inference.contract import Contract
from nuclei.inference.graph import MAP_NETWORK
from nuclei.inference.model_config import contract_of, routing_of
from nuclei.inference.routing import Routing
from serving.repository.configuration import DEFAULT_CPU_ACCELERATOR, network_config

STEPS = ["preprocess", "tta", "merge"]


def config(repository: Path, model: str) -> ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), ModelConfig())


def test_tensors_are_those_of_the_design(repository: Path) -> None:
    network = config(repository, "unet_network.3")
    assert network.max_batch_size == 16
    assert network.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in network.input] == [[-1, -1, -1]]
    assert {group.kind for group in network.instance_group} == {ModelInstanceGroup.KIND_AUTO}
    assert "intra_op_thread_count" not in network.parameters
    warmed_up = [list(entry.inputs["IMAGE"].dims) for entry in network.model_warmup]
    assert warmed_up == [[1, 512, 512], [3, 512, 512]]
    for step in STEPS:
        found = config(repository, step)
        assert found.max_batch_size == 0
        assert found.parameters["intra_op_thread_count"].string_value == "1"
    for model, outputs in (("unet.3", ["MAPS"]), ("unet.3_tta", ["MAPS", "DISAGREEMENT"])):
        ensemble = config(repository, model)
        assert [tensor.name for tensor in ensemble.input] == ["IMAGE", "RANGE"]
        assert [tensor.name for tensor in ensemble.output] == outputs
        assert len(ensemble.output[0].dims) == 4


@pytest.mark.parametrize(("tile_size", "warmed_up"), [(128, 128), (768, 512)])
def test_tiles_of_common_frames_are_warmed_up(
    repository: Path, tile_size: int, warmed_up: int
) -> None:
    graph = repository / "unet_network.3" / "3" / "model.onnx"
    contract = Contract("unet", tile_size=tile_size, halo=32)
    found = network_config(contract, MAP_NETWORK, 3, graph, DEFAULT_CPU_ACCELERATOR)
    dims = [list(entry.inputs["IMAGE"].dims) for entry in found.model_warmup]
    assert dims == [[1, warmed_up, warmed_up], [3, warmed_up, warmed_up]]


def test_the_contract_travels_with_a_version(repository: Path, artifacts: Path) -> None:
    for model in ("unet.3", "unet.3_tta"):
        found = config(repository, model)
        assert contract_of(found) == Contract.read(artifacts / "contract.json")
        assert found.parameters["mlflow_model"].string_value == "nuclei-unet"
        assert found.parameters["mlflow_version"].string_value == "3"


@pytest.mark.parametrize(("model", "graph"), [("unet", "unet.3"), ("unet_tta", "unet.3_tta")])
def test_the_plain_name_is_the_ensemble_of_the_champion(
    repository: Path, model: str, graph: str
) -> None:
    found, of_version = config(repository, model), config(repository, graph)
    assert found.ensemble_scheduling == of_version.ensemble_scheduling
    assert list(found.version_policy.specific.versions) == [3]
    assert routing_of(found) == Routing(3)
    assert {step.model_version for step in found.ensemble_scheduling.step} == {1, 3}
