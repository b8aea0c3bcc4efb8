"""Model repositories."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from nuclei.errors import InvalidData, InvalidOption
from nuclei.imaging.images import frame_from_array
from nuclei.inference.contract import Contract
from nuclei.inference.model_config import contract_of
from serving.parity import served_parity
from serving.repository import CpuAccelerator, check_repository, export, listed

SHIPPED = Path(__file__).parents[2] / "model_repository"
STEPS = ["preprocess", "tta", "merge"]


@pytest.fixture(scope="session")
def exported(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("exported") / "models"
    export(artifacts, repository, 3)
    return repository


@pytest.fixture
def repository(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "models")


def config(repository: Path, model: str) -> ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), ModelConfig())


def versions(repository: Path, model: str) -> list[str]:
    return sorted(folder.name for folder in (repository / model).iterdir() if folder.is_dir())


def files(repository: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}


def test_versions_are_those_of_the_registered_model(artifacts: Path, tmp_path: Path) -> None:
    done = export(artifacts, tmp_path / "models", 3)
    assert [entry.name for entry in done] == [*STEPS, "unet_network", "unet", "unet_tta"]
    assert [entry.version for entry in done] == [1, 1, 1, 3, 3, 3]
    assert [entry.name for entry in done if entry.ensemble] == ["unet", "unet_tta"]
    assert all(entry.new for entry in done)
    check_repository(tmp_path / "models")


def test_tensors_are_those_of_the_design(repository: Path) -> None:
    network = config(repository, "unet_network")
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
    for model, outputs in (("unet", ["MAPS"]), ("unet_tta", ["MAPS", "DISAGREEMENT"])):
        ensemble = config(repository, model)
        assert [tensor.name for tensor in ensemble.input] == ["IMAGE", "RANGE"]
        assert [tensor.name for tensor in ensemble.output] == outputs
        assert len(ensemble.output[0].dims) == 4


def test_the_contract_travels_in_the_ensembles(repository: Path, artifacts: Path) -> None:
    for model in ("unet", "unet_tta"):
        found = config(repository, model)
        assert contract_of(found) == Contract.read(artifacts / "contract.json")
        assert found.parameters["mlflow_model"].string_value == "nuclei-unet"
        assert found.parameters["mlflow_version"].string_value == "3"
    (entry,) = listed(repository)
    assert (entry.name, entry.versions) == ("unet", (3,))
    assert entry.contract.validation["dsb_score"] == 0.5


def test_nothing_is_listed_where_nothing_was_exported(tmp_path: Path) -> None:
    assert listed(tmp_path / "none") == []


def test_a_version_is_never_overwritten(repository: Path, artifacts: Path) -> None:
    before = files(repository)
    with pytest.raises(InvalidOption, match="never overwritten"):
        export(artifacts, repository, 3)
    assert files(repository) == before


def test_the_next_version_lies_beside_and_shares_the_steps(
    repository: Path, artifacts: Path
) -> None:
    done = export(artifacts, repository, 5)
    assert versions(repository, "unet_network") == versions(repository, "unet") == ["3", "5"]
    assert [versions(repository, step) for step in STEPS] == [["1"]] * 3
    assert [entry.new for entry in done] == [False] * 3 + [True] * 3
    assert config(repository, "unet").parameters["mlflow_version"].string_value == "5"
    check_repository(repository)


def test_a_changed_step_becomes_its_next_version(
    repository: Path, artifacts: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(artifacts, tmp_path / "changed")
    model = onnx.load(changed / "merge.onnx")
    model.producer_version = "another"
    onnx.save(model, changed / "merge.onnx")
    export(changed, repository, 4)
    assert versions(repository, "merge") == ["1", "2"]
    assert versions(repository, "preprocess") == ["1"]


def test_nothing_half_written_is_left(repository: Path, artifacts: Path) -> None:
    (repository / "unet_network" / ".incoming-4").mkdir()
    (repository / "unet_network" / ".incoming-4" / "half").touch()
    export(artifacts, repository, 4)
    assert not list(repository.rglob(".*incoming*"))
    assert versions(repository, "unet_network") == ["3", "4"]
    assert not (repository / "unet_network" / "4" / "half").exists()


@pytest.mark.parametrize("version", [0, -1])
def test_an_impossible_version_is_refused(artifacts: Path, tmp_path: Path, version: int) -> None:
    with pytest.raises(InvalidOption, match="expected 1 or more"):
        export(artifacts, tmp_path / "models", version)


def with_ir_version_11(path: Path) -> None:
    model = onnx.load(path)
    model.ir_version = 11
    onnx.save(model, path)


def with_a_fixed_batch(path: Path) -> None:
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, path)


BROKEN_ARTIFACTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing graph": ("merge.onnx", Path.unlink, "merge.onnx is missing"),
    "missing contract": ("contract.json", Path.unlink, "contract.json cannot be read"),
    "corrupt graph": ("network.onnx", lambda path: path.write_bytes(b"x"), "cannot be loaded"),
    "new format": ("network.onnx", with_ir_version_11, "IR version 11"),
    "fixed batch": ("network.onnx", with_a_fixed_batch, "set max_batch_size to 0"),
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
        export(broken, tmp_path / "models", 1)
    assert not (tmp_path / "models").exists()


def replace_in_config(model: str, old: str, new: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        path = repository / model / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


BROKEN_REPOSITORIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "python": (lambda folder: (folder / "unet/3/model.py").touch(), "holds no Python"),
    "config": (replace_in_config("tta", "name:", "nom:"), "not a Triton model configuration"),
    "name": (replace_in_config("tta", 'name: "tta"', 'name: "other"'), "names it 'other'"),
    "dims": (replace_in_config("tta", "dims: 1", "dims: 4"), r"'INPUT' has dims \[4, -1, -1, -1\]"),
    "output": (replace_in_config("merge", 'name: "MAPS"', 'name: "M"'), "'M' is not in the ONNX"),
    "type": (replace_in_config("unet_network", "TYPE_FP32", "TYPE_FP16"), "is TYPE_FP16"),
    "step": (lambda folder: shutil.rmtree(folder / "merge"), "'merge' is not in the repository"),
    "version": (lambda folder: shutil.rmtree(folder / "unet" / "3"), "no version folder"),
    "graph": (lambda folder: (folder / "tta/1/model.onnx").unlink(), "model.onnx is missing"),
    "wiring": (
        replace_in_config("unet", 'value: "INPUT"', 'value: "nothing"'),
        "'nothing', which no step|no step before it makes",
    ),
    "unread": (
        replace_in_config("unet_tta", 'output {\n  name: "DIS', 'input {\n  name: "ELSE'),
        "makes 'DISAGREEMENT', which nothing reads",
    ),
    "contract": (replace_in_config("unet", "tile_size", "tile_sighs"), "unet: contract.json"),
    "nothing": (shutil.rmtree, "holds no model"),
}


@pytest.mark.parametrize("case", BROKEN_REPOSITORIES)
def test_a_broken_repository_is_told(repository: Path, case: str) -> None:
    break_it, expected = BROKEN_REPOSITORIES[case]
    break_it(repository)
    with pytest.raises(InvalidData, match=expected):
        check_repository(repository)


@pytest.mark.parametrize("accelerator", CpuAccelerator)
def test_triton_answers_as_the_files_in_this_process(
    artifacts: Path, fluorescence: Path, tmp_path: Path, accelerator: CpuAccelerator
) -> None:
    from nuclei.imaging.images import read_frame

    export(artifacts, tmp_path / "models", 7, accelerator=accelerator)
    frame = frame_from_array(read_frame(fluorescence).pixels[:200, :150])
    found = served_parity(tmp_path / "models", ["unet", "unet_tta"], frame)
    assert [(parity.graph, parity.version) for parity in found] == [
        ("unet", "7"),
        ("unet_tta", "7"),
    ]
    worst = max(parity.differences["MAPS"] for parity in found)
    assert worst <= (3 if accelerator is CpuAccelerator.OPENVINO_BF16 else 1)


def test_the_shipped_repository_is_one_that_triton_loads() -> None:
    check_repository(SHIPPED)
    assert [entry.name for entry in listed(SHIPPED)] == ["unet"]
