import csv
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import EngineUnavailable, InvalidImage, InvalidOption, ModelNotFound, NucleiError
from nuclei.evaluation.metrics import score_image
from nuclei.formats import FORMATS
from nuclei.imaging.images import read_frame, read_labels
from nuclei.plates.journal import FOLDER
from nuclei.process.ports import LOOPBACK, free_ports

if TYPE_CHECKING:
    from tests.conftest import Gateway

EXAMPLES = Path(__file__).parents[3] / "examples"
FORMS = ("labels.png", "csv", "json")
KINDS = ("fluorescence.png", "fluorescence_16bit.tif", "histology.png", "brightfield.png")


def segment(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["segment", *map(str, arguments)], env={"COLUMNS": "120"})


def failure(result: Result) -> NucleiError:
    assert isinstance(result.exception, NucleiError), result.output
    return result.exception


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
    assert isinstance(error, InvalidImage)
    assert str(error).startswith("2 of 4 frames failed")
    assert result.stderr.count("cut.png: the image is truncated") == 1
    assert result.stderr.count("text.tif: not an image") == 1
    written = {path.name for path in out.iterdir()}
    assert written == {FOLDER, "frames.csv", "good.csv", "histology.csv"}
    with (out / "frames.csv").open() as table:
        rows = {row["frame"]: row for row in csv.DictReader(table)}
    assert list(rows) == ["cut.png", "good.png", "histology.png", "text.tif"]
    assert rows["text.tif"]["error"].startswith("InvalidImage: ")
    assert rows["good.png"]["error"] == ""
    assert float(rows["good.png"]["coverage"]) > 0.01
    count = len((out / "good.csv").read_text().splitlines()) - 1
    assert int(rows["good.png"]["count"]) == count
    assert "good.png" in result.stdout


def test_planes_channels_and_sizes_are_chosen_and_doubts_are_said(
    repository: Path, gateway: "Gateway", tmp_path: Path
) -> None:
    pixels = read_frame(EXAMPLES / "fluorescence.png").pixels[:, :, 0]
    stack = np.zeros((2, 3, *pixels.shape), np.float32)
    stack[1, 2] = pixels / 255
    frame = tmp_path / "stack.tif"
    metadata = {"axes": "CZYX", "Channel": {"Name": ["GFP", "DAPI"]}}
    tifffile.imwrite(frame, stack, ome=True, metadata=metadata, photometric="minisblack")
    chosen = ("--channel", "dapi", "--plane", 2, "--pixel-size", "0.5", "--save", "json,csv")
    told = []
    for way in (("--local", "--repository", repository), ("--address", gateway.grpc_address)):
        out = tmp_path / way[0].strip("-")
        result = segment(frame, "--out", out, *way, *chosen, "--intensity-range", "0.01,0.15")
        assert result.exit_code == 0, result.output
        assert "stack.tif: the pixels are float32 from 0.0" in result.stderr
        assert "1 with warnings" in result.stderr
        said = json.loads((out / "stack.json").read_text())
        assert said["count"] > 10
        assert said["pixel_size_um"] == {"x": 0.5, "y": 0.5}
        assert said["intensity_range"] == pytest.approx({"lo": 0.01, "hi": 0.15})
        assert all(0 < nucleus["intensity_mean"] < 1 for nucleus in said["nuclei"])
        told.append(said["warnings"])
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--plane", "x", "plane='x'"),
        ("--pixel-size", "0", "above 0"),
        ("--pixel-size", "1,2,3", "y,x"),
        ("--project", "mean", "max"),
        ("--intensity-range", "9,1", "lo below hi"),
        ("--intensity-percentiles", "0,200", "0 to 100"),
        ("--threshold", "0", "above 0 and below 1"),
        ("--min-area", "1e3", "whole number"),
        ("--diameter", "wide", "no number"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    tmp_path: Path, option: str, value: str, said: str
) -> None:
    error = failure(segment(EXAMPLES, "--out", tmp_path / "out", option, value))
    assert isinstance(error, InvalidOption)
    assert said in str(error)
    assert not (tmp_path / "out").exists()


def test_a_model_is_adjusted_and_the_change_is_said(
    repository: Path, gateway: "Gateway", tmp_path: Path
) -> None:
    asked = ("--threshold", "0.4", "--min-area", "400", "--diameter", "25", "--save", "json")
    counts = []
    for way in (("--local", "--repository", repository), ("--address", gateway.grpc_address)):
        out = tmp_path / way[0].strip("-")
        result = segment(EXAMPLES / "fluorescence.png", "--out", out, *way, *asked)
        assert result.exit_code == 0, result.output
        assert "the threshold was 0.4; the model was tuned to" in result.stderr
        said = json.loads((out / "fluorescence.json").read_text())
        assert min(nucleus["area_px"] for nucleus in said["nuclei"]) >= 400
        counts.append(said["count"])
    # Triton may compute in bfloat16.
    assert abs(counts[0] - counts[1]) <= 1


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
        "frames.csv",
    ]
    said = json.loads((tmp_path / "fluorescence.json").read_text())["quality"]
    with (tmp_path / "frames.csv").open() as table:
        (row,) = csv.DictReader(table)
    for name, value in said.items():
        assert row[name] == ("" if value is None else repr(value))
    assert 0 < said["tta_disagreement"] < 1
    assert f"{said['focus']:.2g}" in result.stdout
    assert json.loads((tmp_path / "fluorescence.json").read_text())["count"] > 10


def test_every_format_is_written_and_replaced(repository: Path, tmp_path: Path) -> None:
    for _ in range(2):
        result = segment(
            *(EXAMPLES / "fluorescence.png", "--out", tmp_path, "--local"),
            *("--repository", repository, "--save", ",".join(FORMATS)),
        )
        assert result.exit_code == 0, result.output
    written = {f"fluorescence.{name}" for name in FORMATS} | {"frames.csv"}
    assert {path.name for path in tmp_path.iterdir()} == written
    labels = read_labels(tmp_path / "fluorescence.labels.tif")
    levels = zarr.open_group(tmp_path / "fluorescence.labels.ome.zarr", mode="r")
    np.testing.assert_array_equal(levels["0"], labels)
    (image,) = json.loads((tmp_path / "fluorescence.coco.json").read_text())["images"]
    assert image["file_name"] == "fluorescence.png"


def test_an_unknown_model_stops_at_once(repository: Path, tmp_path: Path) -> None:
    result = segment(
        EXAMPLES, "--out", tmp_path, "--local", "--repository", repository, "--model", "none"
    )
    assert isinstance(failure(result), ModelNotFound)


def test_a_gateway_that_is_not_there_stops_at_once(tmp_path: Path) -> None:
    address = f"{LOOPBACK}:{free_ports(1)[0]}"
    result = segment(EXAMPLES, "--out", tmp_path, "--address", address)
    assert isinstance(failure(result), EngineUnavailable)
    assert str(result.exception).endswith("or do without a gateway: --local")


def test_an_out_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.touch()
    result = segment(EXAMPLES, "--out", out, "--local", "--repository", tmp_path / "nosuch")
    assert isinstance(failure(result), InvalidOption)
    assert str(result.exception).startswith(f"{out} is not a folder, so {out} cannot be written")


def test_a_result_that_cannot_be_written_keeps_no_other_back(
    repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "fluorescence.csv").mkdir()
    frames = [EXAMPLES / "fluorescence.png", EXAMPLES / "histology.png"]
    saved = ("--save", "labels.png,csv,json")
    result = segment(*frames, "--out", tmp_path, "--local", "--repository", repository, *saved)
    assert isinstance(failure(result), InvalidOption)
    assert str(result.exception).startswith("1 of 2 frames failed")
    assert "fluorescence.csv cannot be written: Is a directory" in result.stderr
    assert result.stderr.endswith("1 done, 1 failed\n")
    names = {f"{name}.{form}" for name in ("fluorescence", "histology") for form in FORMS}
    assert {path.name for path in tmp_path.iterdir()} == {FOLDER, "frames.csv", *names}
    assert "fluorescence.png" in result.stdout


def test_a_frame_that_is_called_like_the_table_of_frames_is_refused(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "histology.png", tmp_path / "frames.png")
    error = failure(segment(tmp_path, "--out", tmp_path / "out", "--local"))
    assert isinstance(error, InvalidOption)
    assert "frames.png would write frames.csv, which is the table of all frames" in str(error)
    assert not (tmp_path / "out").exists()


def test_every_file_is_accounted_for(repository: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    shutil.copy(EXAMPLES / "histology.png", frames / "[dapi] A01.png")
    for name in ("plate.oib", "[dapi] A01.overlay.png", ".DS_Store"):
        (frames / name).touch()
    (frames / "gone.tif").symlink_to(tmp_path / "nosuch.tif")
    os.mkfifo(frames / "pipe.png")
    out = tmp_path / "out"
    result = segment(frames, "--out", out, "--local", "--repository", repository, "--save", "csv")
    assert isinstance(failure(result), InvalidImage)
    assert "[dapi] A01.png" in result.stdout
    assert result.stderr.splitlines() == [
        f"skipped 1, hidden: {frames}/.DS_Store",
        f"skipped 1, results of this command: {frames}/[dapi] A01.overlay.png",
        f"skipped 1, not PNG, JPEG or TIFF (export a microscope's own files as OME-TIFF): "
        f"{frames}/plate.oib",
        f"{frames}/gone.tif: cannot be read: No such file or directory",
        f"{frames}/pipe.png: not a file; expected an image file",
        f"failed: {frames}/gone.tif, {frames}/pipe.png",
        "1 done, 2 failed, 3 skipped",
    ]


def test_the_first_that_failed_are_named_once_more_at_the_end(
    repository: Path, tmp_path: Path
) -> None:
    bad = [tmp_path / f"{number:02d}.png" for number in range(23)]
    for path in bad:
        path.write_text("no image")
    result = segment(tmp_path, "--out", tmp_path, "--local", "--repository", repository)
    assert isinstance(failure(result), InvalidImage)
    named, counts = result.stderr.splitlines()[-2:]
    assert named == f"failed: {', '.join(map(str, bad[:20]))} and 3 more"
    assert counts == "23 failed"


def test_frames_that_a_stop_left_out_are_counted(repository: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    result = segment(
        *(bad, EXAMPLES / "fluorescence.png", EXAMPLES / "histology.png"),
        *("--out", tmp_path, "--local", "--repository", repository, "--model", "none"),
    )
    assert isinstance(failure(result), ModelNotFound)
    assert result.stderr.endswith("1 failed, 2 not tried\n")


def test_a_folder_that_was_written_into_is_segmented_alike_again(
    repository: Path, tmp_path: Path
) -> None:
    shutil.copy(EXAMPLES / "histology.png", tmp_path)
    call = (tmp_path, "--out", tmp_path, "--local", "--repository", repository)
    assert segment(*call).exit_code == 0
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = segment(*call)
    assert again.exit_code == 0
    assert again.stderr.startswith("skipped 5, results of this command: ")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written
