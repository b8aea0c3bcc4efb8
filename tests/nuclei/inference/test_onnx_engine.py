"""The ensembles of a model repository, run in this process."""

import re
from pathlib import Path

import numpy as np
import pytest

from nuclei.errors import DeadlineExceeded, InvalidData, ModelNotFound
from nuclei.imaging.images import Frame, read_frame
from nuclei.inference import pipeline
from nuclei.inference.deadline import NEVER, Deadline
from nuclei.inference.onnx_engine import LocalEngine

RANGE = np.array([0, 255], np.float32)
MAPS = ("MAPS",)


@pytest.fixture(scope="module")
def engine(repository: Path) -> LocalEngine:
    return LocalEngine(repository)


def image(side: int = 64, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (side, side, channels)).astype(np.uint16)


async def test_frame_is_segmented(engine: LocalEngine, fluorescence: Path) -> None:
    result = await pipeline.segment(read_frame(fluorescence), engine, engine.find("unet"))
    assert len(result.nuclei) > 10
    assert result.labels.max() == len(result.nuclei)
    assert result.version.isdigit()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("graph", ["unet", "unet_tta"])
async def test_maps_have_the_size_of_the_tile(
    engine: LocalEngine, graph: str, channels: int
) -> None:
    contract = engine.find("unet").contract
    answer = await engine.infer(graph, MAPS, image(channels=channels), RANGE, NEVER)
    assert answer["MAPS"].shape == (1, len(contract.maps), 64, 64)
    assert answer["MAPS"].dtype == np.uint8


async def test_eight_views_give_maps_near_those_of_one(engine: LocalEngine) -> None:
    one = await engine.infer("unet", MAPS, image(), RANGE, NEVER)
    eight = await engine.infer("unet_tta", MAPS, image(), RANGE, NEVER)
    difference = np.abs(one["MAPS"].astype(int) - eight["MAPS"])
    assert 0 < difference.mean() < 64


async def test_an_output_that_a_graph_lacks_is_named(engine: LocalEngine) -> None:
    asked = ("MAPS", "DISAGREEMENT")
    assert (await engine.infer("unet_tta", asked, image(), RANGE, NEVER)).keys() == set(asked)
    with pytest.raises(InvalidData, match="'unet' does not give DISAGREEMENT; export"):
        await engine.infer("unet", asked, image(), RANGE, NEVER)


def test_models_are_those_with_a_routing(engine: LocalEngine) -> None:
    assert engine.models() == ["unet"]


@pytest.mark.parametrize("model", ["nosuch", "../unet", "", "preprocess"])
async def test_unknown_model_is_named(engine: LocalEngine, model: str) -> None:
    with pytest.raises(ModelNotFound, match=f"'{re.escape(model)}'"):
        engine.find(model)


async def test_time_can_run_out(engine: LocalEngine) -> None:
    with pytest.raises(DeadlineExceeded):
        await engine.infer("unet", MAPS, image(), RANGE, Deadline.after(0))


def test_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no models in"):
        LocalEngine(tmp_path)


async def test_damaged_model_is_named(own_repository: Path) -> None:
    for file in (own_repository / "preprocess").glob("*/*.onnx"):
        file.write_bytes(b"not a model")
    with pytest.raises(InvalidData, match=r"preprocess.*cannot be loaded"):
        await LocalEngine(own_repository).infer("unet", MAPS, image(), RANGE, NEVER)


async def test_damaged_configuration_is_named(own_repository: Path) -> None:
    (own_repository / "unet/config.pbtxt").write_text("name: ")
    with pytest.raises(InvalidData, match="'unet'"):
        LocalEngine(own_repository).find("unet")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('value: "INPUT"', 'value: "NOTHING"', "makes the tensor 'INPUT'|'NOTHING'"),
        ('model_name: "preprocess"', 'model_name: "unet"', "no step but an ensemble"),
        ('model_name: "preprocess"', 'model_name: "../x"', "no name of a model"),
    ],
)
async def test_a_graph_that_cannot_run_is_named(
    own_repository: Path, old: str, new: str, expected: str
) -> None:
    config = own_repository / "unet/config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidData, match=expected):
        await LocalEngine(own_repository).infer("unet", MAPS, image(), RANGE, NEVER)


async def test_a_name_means_the_champion_and_other_versions_can_be_asked_for(
    repository_of_two: Path, version: str
) -> None:
    engine = LocalEngine(repository_of_two)
    newer = str(int(version) + 1)
    found = [engine.find("unet"), engine.find("unet", int(version))]
    assert [each.version for each in found] == [newer, version]
    assert [each.graph for each in found] == [f"unet.{newer}", f"unet.{version}"]
    maps = [await engine.infer(each.graph, MAPS, image(), RANGE, NEVER) for each in found]
    np.testing.assert_array_equal(maps[0]["MAPS"], maps[1]["MAPS"])


def test_a_version_that_is_not_there_is_named(engine: LocalEngine) -> None:
    with pytest.raises(ModelNotFound, match="'unet' has no version 99"):
        engine.find("unet", 99)


async def test_one_engine_serves_several_event_loops(engine: LocalEngine) -> None:
    frame = Frame(np.zeros((40, 50, 1), np.uint8))
    assert (await pipeline.segment(frame, engine, engine.find("unet"))).labels.shape == (40, 50)
