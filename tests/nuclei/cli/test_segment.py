import csv
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.cli.segment import find_jobs
from nuclei.errors import EngineUnavailable, InvalidInput, InvalidOption, ModelNotFound, NucleiError
from nuclei.evaluation.metrics import score_image
from nuclei.imaging.images import read_frame, read_labels
from serving.process.ports import LOOPBACK, free_ports

if TYPE_CHECKING:
    from tests.conftest import Gateway

EXAMPLES = Path(__file__).parents[3] / "examples"
KINDS = ("fluorescence.png", "fluorescence_16bit.tif", "histology.png", "brightfield.png")


def segment(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["segment", *map(str, arguments)], env={"COLUMNS": "120"})


def failure(result: Result) -> NucleiError:
    assert isinstance(result.exception, NucleiError), result.output
    return result.exception


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture(scope="module")
def results(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `nuclei segment examples/ --local` wrote."""
    out = tmp_path_factory.mktemp("results")
    result = segment(EXAMPLES, "--out", out, "--local", "--repository", repository)
    assert result.exit_code == 0, result.output
    for name in KINDS:
        assert name in result.stdout
    return out


@pytest.mark.parametrize("name", KINDS)
def test_finds_nuclei_in_every_kind_of_frame(results: Path, name: str) -> None:
    frame = read_frame(EXAMPLES / name)
    labels = read_labels(results / f"{Path(name).stem}.labels.tif")
    assert labels.shape == frame.pixels.shape[:2]
    assert labels.max() > 10
    with (results / f"{Path(name).stem}.csv").open() as table:
        areas = [int(row["area_px"]) for row in csv.DictReader(table)]
    np.testing.assert_array_equal(areas, np.bincount(labels.ravel())[1:])
    features = json.loads((results / f"{Path(name).stem}.geojson").read_text())["features"]
    assert len(features) == len(areas)
    assert cv2.imread(str(results / f"{Path(name).stem}.overlay.png")) is not None


def test_the_gateway_gives_what_local_gives(
    results: Path, gateway: "Gateway", tmp_path: Path
) -> None:
    frames = [EXAMPLES / name for name in KINDS]
    result = segment(
        *frames, "--out", tmp_path, "--address", gateway.grpc_address, "--save", "labels.tif,csv"
    )
    assert result.exit_code == 0, result.output
    for name in KINDS:
        local, served = (
            read_labels(folder / f"{Path(name).stem}.labels.tif") for folder in (results, tmp_path)
        )
        # Triton may compute in bfloat16: outlines differ by single pixels.
        assert score_image(local, served)["f1_0.75"] > 0.95
        table = (tmp_path / f"{Path(name).stem}.csv").read_text().splitlines()
        assert len(table) == 1 + served.max()


def test_a_bad_frame_is_named_and_the_others_go_on(repository: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    shutil.copy(EXAMPLES / "fluorescence.png", frames / "good.png")
    shutil.copy(EXAMPLES / "histology.png", frames / "histology.png")
    (frames / "cut.png").write_bytes((EXAMPLES / "fluorescence.png").read_bytes()[:9000])
    (frames / "text.tif").write_text("no image")
    out = tmp_path / "out"
    result = segment(frames, "--out", out, "--local", "--repository", repository, "--save", "csv")
    error = failure(result)
    assert isinstance(error, InvalidInput)
    assert str(error).startswith("2 of 4 frames")
    assert result.stderr.count("cut.png: the image is truncated") == 1
    assert result.stderr.count("text.tif: not an image") == 1
    assert sorted(path.name for path in out.iterdir()) == ["good.csv", "histology.csv"]
    assert "good.png" in result.stdout


def test_save_chooses_the_files(repository: Path, tmp_path: Path) -> None:
    frame = EXAMPLES / "fluorescence.png"
    chosen = "labels.png, json"
    result = segment(
        frame, "--out", tmp_path, "--local", "--repository", repository, "--save", chosen, "--tta"
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fluorescence.json",
        "fluorescence.labels.png",
    ]
    assert json.loads((tmp_path / "fluorescence.json").read_text())["count"] > 10


def test_an_unknown_model_stops_at_once(repository: Path, tmp_path: Path) -> None:
    result = segment(
        EXAMPLES, "--out", tmp_path, "--local", "--repository", repository, "--model", "none"
    )
    assert isinstance(failure(result), ModelNotFound)


def test_a_gateway_that_is_not_there_stops_at_once(tmp_path: Path) -> None:
    address = f"{LOOPBACK}:{free_ports(1)[0]}"
    result = segment(EXAMPLES, "--out", tmp_path, "--address", address)
    assert isinstance(failure(result), EngineUnavailable)


def test_a_folder_that_cannot_be_written_is_named(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.touch()
    frame = EXAMPLES / "fluorescence.png"
    result = segment(frame, "--out", out, "--local", "--repository", repository)
    assert result.exit_code != 0
    assert "cannot be written" in result.stderr


def test_jobs_of_folders_keep_subfolders_and_skip_results(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.TIF", "2.jpeg", "notes.txt", ".hidden.png")
    touch(tmp_path, "2.overlay.png", "2.labels.tif", "2.labels.png")
    jobs = {str(job.stem): job.source.name for job in find_jobs([str(tmp_path)])}
    assert jobs == {"2": "2.jpeg", "a/1": "1.png", "b/1": "1.TIF"}


def test_jobs_of_patterns_and_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "deep/c.png", "[1].png")
    stems = [str(job.stem) for job in find_jobs([f"{tmp_path}/*.png", f"{tmp_path}/a.png"])]
    assert sorted(stems) == ["[1]", "a", "b"]
    assert [str(job.stem) for job in find_jobs([f"{tmp_path}/[1].png"])] == ["[1]"]
    deep = find_jobs([f"{tmp_path}/**/*.png"])
    assert sorted(job.source.name for job in deep) == ["[1].png", "a.png", "b.png", "c.png"]


@pytest.mark.parametrize("names", [("a.png", "a.tif"), ("x/a.png", "y/a.png")])
def test_results_that_would_overwrite_each_other_are_refused(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InvalidOption, match="would write the same results"):
        find_jobs([str(tmp_path / name) for name in names])


def test_a_folder_without_frames_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"no frame in .*\.png"):
        find_jobs([str(tmp_path)])
