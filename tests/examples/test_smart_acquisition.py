"""The pymmcore-plus example, on Micro-Manager's demo camera and a real gateway."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nuclei.client import Client, StagePosition
from nuclei.errors import EngineUnavailable

if TYPE_CHECKING:
    from tests.conftest import Gateway

EXAMPLE = Path(__file__).parents[2] / "examples" / "smart_acquisition.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def test_returns_to_the_positions_with_most_nuclei(example: dict[str, Any], client: Client) -> None:
    core = example["open_microscope"](None)
    scan = example["grid"](3, 400.0)
    visits = list(example["acquire"](core, client, scan, n_best=2, returns=2))
    first = {visit.index.position: visit.count for visit in visits if visit.index.t == 0}
    again = [visit.index.position for visit in visits if visit.index.t > 0]
    assert sorted(first) == list(range(9))
    assert min(first.values()) > 20
    best = sorted(first, key=lambda position: -first[position])[:2]
    assert sorted(again) == sorted(best * 2)


def test_nuclei_are_where_the_stage_saw_them(example: dict[str, Any], client: Client) -> None:
    core = example["open_microscope"](None)
    for visit in example["acquire"](core, client, example["grid"](2, 1000.0), 1, 1):
        assert visit.centroids_um.shape == (visit.count, 2)
        assert (np.abs(visit.centroids_um - visit.stage_um) <= 256).all()


def test_affine_turns_around_the_middle_of_the_frame(example: dict[str, Any]) -> None:
    place = StagePosition(100.0, 200.0)
    matrix = example["pixel_to_stage"]((0.0, -0.5, 9.0, 0.25, 0.0, 9.0), place, (5, 3))
    np.testing.assert_allclose(matrix @ (1, 2, 1), (100, 200))
    np.testing.assert_allclose(matrix @ (2, 2, 1), (100, 200.25))


def test_absent_gateway_ends_the_acquisition(example: dict[str, Any]) -> None:
    core = example["open_microscope"](None)
    with Client("127.0.0.1:1") as nobody, pytest.raises(EngineUnavailable):
        list(example["acquire"](core, nobody, example["grid"](2, 400.0), 1, 1))
    assert not core.mda.is_running()


def test_example_runs_as_it_is(gateway: "Gateway") -> None:
    command = [sys.executable, str(EXAMPLE), "--address", gateway.grpc_address, "--grid", "2"]
    run = subprocess.run(
        [*command, "--best", "1", "--returns", "1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("t=")]
    assert [line[:3] for line in lines] == ["t=0"] * 4 + ["t=1"]
    assert all(line.endswith("nuclei") for line in lines)
