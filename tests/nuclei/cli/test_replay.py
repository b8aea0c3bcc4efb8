"""`nuclei replay`, against a real gateway."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.cli.replay import Camera, Tally
from nuclei.client import Outcome
from nuclei.errors import (
    EngineUnavailable,
    InvalidImage,
    InvalidOption,
    ModelNotFound,
    NucleiError,
)
from nuclei.imaging.frame_options import FrameOptions
from nuclei.imaging.images import Frame
from nuclei.postprocessing.measurement import measure
from nuclei.results.segmentation import Segmentation

if TYPE_CHECKING:
    from tests.conftest import Gateway


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small images."""
    examples = Path(__file__).parents[3] / "examples"
    folder = tmp_path_factory.mktemp("acquisition")
    for name in ("histology.png", "histology_2.png"):
        shutil.copy(examples / name, folder)
    return folder


def replay(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, arguments)], env={"COLUMNS": "100"})


def row(result: Result, name: str) -> str:
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(name)]
    return line.removeprefix(name).strip()


def test_every_frame_is_answered(gateway: "Gateway", folder: Path) -> None:
    result = replay(folder, "--fps", 20, "--frames", 9, "--address", gateway.grpc_address)
    assert result.exit_code == 0, result.output
    counted = [row(result, name) for name in ("frames sent", "answered", "skipped", "failed")]
    assert counted == ["9", "9", "0", "0"]
    assert row(result, "latency p50").endswith(" ms")
    assert float(row(result, "latency p50").split()[0]) <= float(
        row(result, "latency p99").split()[0]
    )
    assert row(result, "achieved").endswith("of 20 frames/s")
    assert int(row(result, "nuclei")) > 100


def test_warnings_of_frames_are_counted() -> None:
    segmentation = Segmentation(
        np.zeros((4, 4), np.uint32),
        measure(
            np.zeros((4, 4), np.uint32), np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4), np.uint8)
        ),
        None,
        "unet",
        "1",
        warnings=("doubtful",),
    )
    tally = Tally()
    for number in range(3):
        tally.add(Outcome(number, "", None, None, segmentation), 0.0)
    assert tally.warnings == {"doubtful": 3}


@pytest.mark.parametrize("overflow", ["drop_oldest", "latest_only"])
def test_slow_server_does_not_slow_the_camera(
    gateway: "Gateway", folder: Path, overflow: str
) -> None:
    result = replay(
        *(folder, "--fps", 200, "--seconds", 0.5, "--positions", 2, "--tta"),
        *("--overflow", overflow, "--address", gateway.grpc_address),
    )
    assert result.exit_code == 0, result.output
    sent, answered, skipped = (
        int(row(result, name)) for name in ("frames sent", "answered", "skipped")
    )
    assert sent == 100 == answered + skipped
    assert skipped > 0


def test_block_says_how_far_it_fell_behind(gateway: "Gateway", folder: Path) -> None:
    result = replay(
        *(folder, "--fps", 500, "--frames", 40, "--tta", "--address", gateway.grpc_address)
    )
    assert result.exit_code == 0, result.output
    assert row(result, "answered") == "40"
    assert row(result, "behind the camera").endswith("s at worst")


def test_failed_frames_are_named_and_fail_the_command(
    gateway: "Gateway", folder: Path, tmp_path: Path
) -> None:
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    (mixed / "broken.png").write_bytes(b"no image")
    (mixed / "plate.czi").touch()
    result = replay(mixed, "--fps", 50, "--frames", 6, "--address", gateway.grpc_address)
    assert isinstance(result.exception, InvalidImage)
    assert "2 of 6 frames failed" in str(result.exception)
    assert (row(result, "failed"), row(result, "answered")) == ("2", "4")
    assert "2 x InvalidImage" in result.stderr
    assert "skipped 1, not PNG, JPEG or TIFF" in result.stderr


def test_a_channel_and_a_plane_are_chosen_as_for_segment(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 4000, (4, 2, 30, 40), np.uint16)
    metadata = {"axes": "ZCYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(
        tmp_path / "a.tif", stack, ome=True, photometric="minisblack", metadata=metadata
    )
    tifffile.imwrite(tmp_path / "b.tif", stack[0, 0])
    options = FrameOptions.of_text(channel="GFP", project="max")
    camera = Camera([tmp_path / "a.tif", tmp_path / "b.tif"], options, fps=1e4, positions=1)
    (taken,) = camera.frames(2)
    assert isinstance(taken.frame, Frame)
    np.testing.assert_array_equal(taken.frame.pixels[:, :, 0], stack[:, 1].max(axis=0))
    (refused,) = camera.refused
    assert "b.tif" in str(refused)
    assert "'GFP'" in str(refused)


@pytest.mark.parametrize("options", [["--plane", "two"], ["--plane", 1, "--project", "max"]])
def test_options_of_reading_are_checked_before_the_first_frame(
    folder: Path, options: list[object]
) -> None:
    assert type(replay(folder, *options).exception) is InvalidOption


FAILURES: dict[str, tuple[list[object], type[NucleiError]]] = {
    "no server": (["--address", "127.0.0.1:1"], EngineUnavailable),
    "no speed": (["--fps", 0], InvalidOption),
    "speed without end": (["--fps", "inf"], InvalidOption),
    "nearly no speed": (["--fps", "1e-300"], InvalidOption),
    "no time": (["--seconds", -1], InvalidOption),
    "more frames than numbers": (["--fps", 100, "--seconds", "1e308"], InvalidOption),
    "two lengths": (["--seconds", 1, "--frames", 3], InvalidOption),
}


@pytest.mark.parametrize("name", FAILURES)
def test_impossible_replay_is_refused(folder: Path, name: str) -> None:
    options, error = FAILURES[name]
    result = replay(folder, *options)
    assert type(result.exception) is error, result.output


def test_unknown_model_fails(gateway: "Gateway", folder: Path) -> None:
    result = replay(folder, "--frames", 2, "--model", "nosuch", "--address", gateway.grpc_address)
    assert type(result.exception) is ModelNotFound


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_folder_without_images_is_refused(tmp_path: Path, what: str) -> None:
    result = replay(tmp_path if what == "empty" else tmp_path / "missing")
    assert type(result.exception) is InvalidOption


def test_help_has_an_example(folder: Path) -> None:
    text = replay("--help").stdout
    assert "Examples" in text
    assert "--overflow latest_only" in text
