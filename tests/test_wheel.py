"""The package as a user gets it: built, and installed into separate environments."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nuclei.errors import MissingPrerequisite

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("nuclei", "serving", "training", "monitoring")
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
# typing-extensions is grpcio's; pip and setuptools come with the environment.
DEPENDENCIES = {"backports-zstd", "grpcio", "numpy", "protobuf", "typing-extensions"}
OF_THE_ENVIRONMENT = {"nuclei-serving", "pip", "setuptools"}

SCRIPT = """
import sys
from pathlib import Path

import numpy as np

from nuclei.client import Client, FrameIndex, StagePosition, StreamFrame

address, path = sys.argv[1], Path(sys.argv[2])
crop = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
with Client(address) as client:
    results = [client.segment(given, outputs=["labels", "centroids", "boxes", "features",
        "polygons"], stage_position=StagePosition(1000, 2000), pixel_size_um=(0.5, 0.25))
        for given in (path, path.read_bytes())]
    for found in results:
        n = len(found.nuclei)
        assert n > 10
        assert found.labels.dtype == np.uint32 and found.labels.max() == n
        assert found.nuclei.centroid_px.shape == found.centroids_stage_um.shape == (n, 2)
        assert found.nuclei.box_px.shape == (n, 4)
        np.testing.assert_array_equal(
            found.nuclei.area_px, np.bincount(found.labels.ravel(), minlength=n + 1)[1:])
        assert found.nuclei.area_um2(found.pixel_size_um).shape == (n,)
        assert (found.nuclei.score > 0).all() and (found.nuclei.mean_intensity > 0).all()
        assert [label for label, _ in found.outlines] == found.nuclei.label.tolist()
    assert client.segment(crop).labels.shape == crop.shape
    frames = [StreamFrame(path, FrameIndex(t=t)) for t in range(3)]
    outcomes = list(client.stream(frames, overflow="block"))
    assert [outcome.index.t for outcome in outcomes] == [0, 1, 2]
    assert all(len(outcome.segmentation.nuclei) == n for outcome in outcomes)
print(n)
"""


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder from which no file of the project is found by accident."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
        env=kept | environment,
    )


def pip(python: Path | str, *arguments: object) -> str:
    done = run(python, "-m", "pip", "--disable-pip-version-check", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the project's folder."""
    sources = tmp_path_factory.mktemp("sources")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, sources)
    pip(sys.executable, "wheel", "--no-deps", "-w", sources / "dist", sources)
    (built,) = (sources / "dist").glob("nuclei_serving-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel, and what pip finds it needs."""
    folder = tmp_path_factory.mktemp("client")
    done = run(sys.executable, "-m", "venv", folder)
    assert done.returncode == 0, done.stderr
    pip(folder / "bin" / "python", "install", wheel)
    return folder / "bin" / "python"


def test_the_wheel_holds_the_packages_and_their_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {*PACKAGES, next(name for name in folders if name.endswith(".dist-info"))}
    data = (
        "py.typed",
        "evaluation/report.html",
        "v1/segmentation.proto",
        "v1/segmentation_pb2.pyi",
    )
    for name in data:
        assert f"nuclei/{name}" in names


def test_a_client_brings_few_packages(python: Path) -> None:
    listed = json.loads(pip(python, "list", "--format=json"))
    names = {entry["name"].lower().replace(".", "-").replace("_", "-") for entry in listed}
    assert names - OF_THE_ENVIRONMENT <= DEPENDENCIES
    pip(python, "check")


def test_a_client_calls_a_gateway(python: Path, gateway: Any, fluorescence: Path) -> None:
    called = run(python, "-P", "-c", SCRIPT, gateway.grpc_address, fluorescence)
    assert called.returncode == 0, called.stderr
    assert int(called.stdout) > 10


def test_the_command_names_its_extra(python: Path) -> None:
    called = run(python.with_name("nuclei"), "segment", "frame.tif", "--out", "results")
    assert called.returncode == MissingPrerequisite.exit_code
    assert "nuclei-serving[local]" in called.stderr
    assert len(called.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("segment", "frame.tif", "--out", "results"), "local"),
        (("serve",), "serve"),
        (("models",), "serve"),
        (("train", "unet", "images"), "train"),
    ],
)
def test_a_command_names_the_extra_it_lacks(
    python: Path, wheel: Path, command: tuple[str, ...], extra: str
) -> None:
    """With the command line's own packages, and none of what its commands import."""
    folder = wheel.with_name("command_line")
    if not folder.exists():
        pip(python, "install", "--target", folder, "typer", "rich")
    called = run(python.with_name("nuclei"), *command, PYTHONPATH=str(folder), HOME=str(folder))
    assert called.returncode == MissingPrerequisite.exit_code, called.stderr
    assert f"nuclei-serving[{extra}]" in called.stderr.replace("\n", "")


@pytest.mark.parametrize(
    "command", [("serve",), ("export", "--from-folder", "nosuch", "--version", "1")]
)
def test_a_command_says_that_it_needs_a_checkout(wheel: Path, command: tuple[str, ...]) -> None:
    """With all packages of this environment, and the project installed from the wheel."""
    folder = wheel.with_name("installed")
    if not folder.exists():
        pip(sys.executable, "install", "--no-deps", "--target", folder, wheel)
    code = "from nuclei.cli.main import main; main()"
    called = run(sys.executable, "-P", "-c", code, *command, PYTHONPATH=str(folder))
    assert called.returncode == MissingPrerequisite.exit_code, called.stderr
    assert "checkout" in called.stderr
