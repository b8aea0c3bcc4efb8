"""Adding model versions to a repository."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from nuclei.errors import InvalidData, InvalidOption, ModelNotFound
from nuclei.inference.model_config import contract_of, read_model_config, routing_of
from nuclei.inference.onnx_engine import LocalEngine
from nuclei.inference.routing import Routing
from serving.repository.checks import check_repository
from serving.repository.export import (
    collect_artifacts,
    export_version,
    remove_version,
    set_contract,
    set_routing,
)

STEPS = ["preprocess", "tta", "merge"]
PLAIN = ["unet", "unet_tta"]


def versions(repository: Path, model: str) -> list[str]:
    return sorted(folder.name for folder in (repository / model).iterdir() if folder.is_dir())


def config(repository: Path, model: str) -> ModelConfig:
    return read_model_config(repository / model / "config.pbtxt")


def files(repository: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}


def test_versions_are_those_of_the_registered_model(artifacts: Path, tmp_path: Path) -> None:
    done = export_version(artifacts, tmp_path / "models", 3)
    assert [entry.name for entry in done] == [*STEPS, "unet_network.3", "unet.3", "unet.3_tta"]
    assert [entry.version for entry in done] == [1, 1, 1, 3, 3, 3]
    assert [entry.name for entry in done if entry.ensemble] == ["unet.3", "unet.3_tta"]
    assert all(entry.new for entry in done)
    check_repository(tmp_path / "models")


def test_a_version_is_never_overwritten(repository: Path, artifacts: Path) -> None:
    before = files(repository)
    with pytest.raises(InvalidOption, match="never overwritten"):
        export_version(artifacts, repository, 3)
    assert files(repository) == before


def test_the_next_version_lies_beside_and_shares_the_steps(
    repository: Path, artifacts: Path
) -> None:
    done = export_version(artifacts, repository, 5)
    for model in ("unet_network.5", "unet.5", "unet.5_tta"):
        assert versions(repository, model) == ["5"]
    assert versions(repository, "unet_network.3") == versions(repository, "unet") == ["3"]
    assert [versions(repository, step) for step in STEPS] == [["1"]] * 3
    assert [entry.new for entry in done] == [False] * 3 + [True] * 3
    assert config(repository, "unet.5").parameters["mlflow_version"].string_value == "5"
    assert routing_of(config(repository, "unet")) == Routing(3)
    check_repository(repository)


def test_a_changed_step_becomes_its_next_version(
    repository: Path, artifacts: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(artifacts, tmp_path / "changed")
    model = onnx.load(changed / "merge.onnx")
    model.producer_version = "another"
    onnx.save(model, changed / "merge.onnx")
    export_version(changed, repository, 4)
    assert versions(repository, "merge") == ["1", "2"]
    assert versions(repository, "preprocess") == ["1"]


def test_the_plain_name_means_what_its_routing_says(repository: Path, artifacts: Path) -> None:
    export_version(artifacts, repository, 5)
    assert set_routing(repository, "unet", Routing(5, challenger=3, shadow=0.5)) == PLAIN
    for name in PLAIN:
        found = config(repository, name)
        assert routing_of(found) == Routing(5, challenger=3, shadow=0.5)
        assert "unet_network.5" in {step.model_name for step in found.ensemble_scheduling.step}
        assert versions(repository, name) == ["3", "5"]
    check_repository(repository)


def test_a_routing_that_is_there_already_changes_no_file(repository: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("config.pbtxt")}
    assert set_routing(repository, "unet", Routing(3)) == []
    assert before == {path: path.stat().st_mtime_ns for path in repository.rglob("config.pbtxt")}


def test_a_champion_that_is_not_there_is_refused(repository: Path) -> None:
    before = files(repository)
    with pytest.raises(ModelNotFound, match="no version 4"):
        set_routing(repository, "unet", Routing(4))
    assert files(repository) == before


def test_what_belongs_to_a_version_alone_goes_with_it(repository: Path, artifacts: Path) -> None:
    before = files(repository)
    export_version(artifacts, repository, 5)
    set_routing(repository, "unet", Routing(5))
    set_routing(repository, "unet", Routing(3))
    remove_version(repository, "unet", 5)
    remove_version(repository, "unet", 5)
    assert files(repository) == before


def test_the_champion_cannot_be_removed(repository: Path) -> None:
    with pytest.raises(InvalidOption, match="means version 3"):
        remove_version(repository, "unet", 3)
    check_repository(repository)


def test_the_files_of_a_version_can_be_had_back(
    repository: Path, artifacts: Path, tmp_path: Path
) -> None:
    (tmp_path / "back").mkdir()
    collect_artifacts(repository, "unet", 3, tmp_path / "back")
    names = {file.name for file in (tmp_path / "back").iterdir()}
    assert names == {"contract.json", *(f"{step}.onnx" for step in (*STEPS, "network"))}
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (artifacts / name).read_bytes()


def test_nothing_half_written_is_left(repository: Path, artifacts: Path) -> None:
    (repository / "unet_network.4" / ".incoming-4").mkdir(parents=True)
    (repository / "unet_network.4" / ".incoming-4" / "half").touch()
    export_version(artifacts, repository, 4)
    assert not list(repository.rglob(".*incoming*"))
    assert versions(repository, "unet_network.4") == ["4"]
    assert not (repository / "unet_network.4" / "4" / "half").exists()


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_an_impossible_version_is_refused(artifacts: Path, tmp_path: Path, version: int) -> None:
    with pytest.raises(InvalidOption, match="expected 1 to"):
        export_version(artifacts, tmp_path / "models", version)


def with_ir_version_11(path: Path) -> None:
    model = onnx.load(path)
    model.ir_version = 11
    onnx.save(model, path)


def with_a_fixed_batch(path: Path) -> None:
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, path)


def as_a_link(path: Path) -> None:
    elsewhere = path.rename(path.parent.parent / path.name)
    path.symlink_to(elsewhere)


def with_weights_elsewhere(path: Path) -> None:
    """In a file that lies outside of the artifacts."""
    model = onnx.load(path)
    for number, tensor in enumerate(model.graph.initializer):
        raw = onnx.numpy_helper.to_array(tensor).tobytes()
        name = f"weights{number}.bin"
        (path.parent.parent / name).write_bytes(raw)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"../{name}")
    path.write_bytes(model.SerializeToString())


def with_maps_of_floats(path: Path) -> None:
    model = onnx.load(path)
    (maps,) = model.graph.output
    (cast,) = [node for node in model.graph.node if maps.name in node.output]
    assert cast.op_type == "Cast"
    cast.attribute[0].i = maps.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(model, path)


def with_two_maps(path: Path) -> None:
    model = onnx.load(path)
    (maps,) = model.graph.output
    (last,) = [node for node in model.graph.node if maps.name in node.output]
    last.output[0] = "three maps"
    first = onnx.numpy_helper.from_array(np.array([0, 1]), "first")
    model.graph.initializer.append(first)
    gather = onnx.helper.make_node("Gather", ["three maps", "first"], [maps.name], axis=1)
    model.graph.node.append(gather)
    maps.type.tensor_type.shape.dim[1].dim_value = 2
    onnx.save(model, path)


def for_colour_alone(path: Path) -> None:
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(model, path)


def in_contract(**fields: object) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


BROKEN_ARTIFACTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing graph": ("merge.onnx", Path.unlink, "merge.onnx is missing"),
    "missing contract": ("contract.json", Path.unlink, "contract.json is missing"),
    "corrupt graph": ("network.onnx", lambda path: path.write_bytes(b"x"), "cannot be loaded"),
    "new format": ("network.onnx", with_ir_version_11, "IR version 11"),
    "fixed batch": ("network.onnx", with_a_fixed_batch, "set max_batch_size to 0"),
    "a link to a graph": ("network.onnx", as_a_link, "is a link"),
    "a link to a contract": ("contract.json", as_a_link, "is a link"),
    "weights elsewhere": ("network.onnx", with_weights_elsewhere, "cannot be loaded"),
    "a path": ("contract.json", in_contract(family="../../x"), "family"),
    "an absolute path": ("contract.json", in_contract(family="/somewhere/x"), "family"),
    "a terminal's command": ("contract.json", in_contract(family="\x1b[2J\n"), "family"),
    "a version in a name": ("contract.json", in_contract(family="unet.3"), "family"),
    "the name of a step": ("contract.json", in_contract(family="merge"), "called 'merge'"),
    "too long a name": ("contract.json", in_contract(family="x" * 64), "would be called"),
    "a huge tile": ("contract.json", in_contract(tile_size=int(32e9)), "tile_size"),
    "maps without names": (
        "contract.json",
        in_contract(maps=["foreground", "border"]),
        "maps are 'foreground, border'; the method watershed expects foreground, border, distance",
    ),
    "maps in another order": (
        "contract.json",
        in_contract(maps=["distance", "foreground", "border"]),
        "expects foreground, border, distance, in this order",
    ),
    "two maps": (
        "network.onnx",
        with_two_maps,
        "'MAPS' has 2 maps, and the contract names 3: foreground, border, distance",
    ),
    "maps of floats": (
        "network.onnx",
        with_maps_of_floats,
        r"'MAPS' is TYPE_FP32 .*; expected TYPE_UINT8 with 4 axes",
    ),
    "colour alone": ("network.onnx", for_colour_alone, r"'IMAGE' as \[3, -1, -1\] only"),
    "other graph": (
        "merge.onnx",
        lambda path: shutil.copy(path.with_name("preprocess.onnx"), path),
        "expected 1, for MAPS_OF_VIEWS",
    ),
}


@pytest.mark.parametrize("case", BROKEN_ARTIFACTS)
def test_broken_artifacts_write_nothing(artifacts: Path, tmp_path: Path, case: str) -> None:
    file, break_it, expected = BROKEN_ARTIFACTS[case]
    broken = shutil.copytree(artifacts, tmp_path / "broken")
    break_it(broken / file)
    with pytest.raises(InvalidData, match=expected):
        export_version(broken, tmp_path / "models", 1)
    assert not (tmp_path / "models").exists()


def test_a_model_named_as_a_step_of_another_replaces_nothing(
    repository: Path, artifacts: Path, tmp_path: Path
) -> None:
    named = shutil.copytree(artifacts, tmp_path / "named")
    in_contract(family="unet_network")(named / "contract.json")
    before = files(repository)
    with pytest.raises(InvalidData, match=r"called 'unet_network\.3'"):
        export_version(named, repository, 3)
    assert files(repository) == before


def test_a_model_of_another_name_is_served_beside(
    repository: Path, artifacts: Path, tmp_path: Path
) -> None:
    named = shutil.copytree(artifacts, tmp_path / "named")
    in_contract(family="mylab")(named / "contract.json")
    export_version(named, repository, 1, registered_model="nuclei-mylab")
    set_routing(repository, "mylab", Routing(1))
    check_repository(repository)
    engine = LocalEngine(repository)
    assert engine.models() == ["mylab", "unet"]
    assert engine.find("mylab").version == "1"
    assert engine.find("unet").version == "3"


def test_a_contract_changes_in_both_graphs_of_a_version_and_nothing_else(
    repository: Path,
) -> None:
    before = files(repository)
    contract = replace(contract_of(config(repository, "unet.3")), pixel_size_um=0.25)
    assert set_contract(repository, "unet", 3, contract) == ["unet.3", "unet.3_tta"]
    for graph in ("unet.3", "unet.3_tta"):
        assert contract_of(config(repository, graph)) == contract
    after = files(repository)
    changed = {path.parent.name for path in before if before[path] != after[path]}
    assert changed == {"unet.3", "unet.3_tta"}
    check_repository(repository)
    assert set_contract(repository, "unet", 3, contract) == []


def test_a_contract_of_a_version_that_is_not_there_is_not_changed(repository: Path) -> None:
    contract = contract_of(config(repository, "unet.3"))
    with pytest.raises(ModelNotFound, match="'unet' has no version 9"):
        set_contract(repository, "unet", 9, contract)
