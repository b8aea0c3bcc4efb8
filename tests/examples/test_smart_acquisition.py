"""The pymmcore-plus example, on Micro-Manager's demo camera and a real gateway."""

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from nuclei.client import Client, FrameIndex, StagePosition
from nuclei.errors import EngineUnavailable, InvalidOption

if TYPE_CHECKING:
    from tests.conftest import Gateway

EXAMPLE = Path(__file__).parents[2] / "examples" / "smart_acquisition.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def test_returns_to_the_positions_with_most_nuclei(example: dict[str, Any], client: Client) -> None:
    core = example["open_microscope"](None)
    scan = example["grid"](3, 400.0)
    choose = partial(example["most_nuclei"], n_best=2, returns=2)
    visits = list(example["acquire"](core, client, scan, choose))
    first = {v.index.position: len(v.nuclei) for v in visits if v.index.t == 0}
    again = [visit.index.position for visit in visits if visit.index.t > 0]
    assert sorted(first) == list(range(9))
    assert min(first.values()) > 20
    best = sorted(first, key=lambda position: -first[position])[:2]
    assert sorted(again) == sorted(best * 2)


def test_returns_to_rare_nuclei_with_another_objective(
    example: dict[str, Any], client: Client
) -> None:
    core = example["open_microscope"](None)
    scan = example["grid"](2, 1000.0, "10X")
    query = "area_um2 > 60 and eccentricity < 0.7"
    choose = partial(example["rare_nuclei"], query=query, n_most=3, objective="40X")
    visits = list(example["acquire"](core, client, scan, choose))
    found = [v.nuclei.query(query) for v in visits if v.index.t == 0]
    rare = {(n.stage_x_um, n.stage_y_um) for table in found for n in table.itertuples()}
    again = [visit for visit in visits if visit.index.t == 1]
    assert len(again) == 3
    for visit in again:
        assert visit.stage_um in rare
        # A pixel of the 40x is a quarter of one of the 10x.
        assert visit.pixel_size_um == pytest.approx(scan_size(visits) / 4)


def scan_size(visits: list[Any]) -> float:
    (size,) = {visit.pixel_size_um for visit in visits if visit.index.t == 0}
    return float(size)


def test_where_nothing_is_rare_the_acquisition_ends_with_the_scan(
    example: dict[str, Any], client: Client
) -> None:
    core = example["open_microscope"](None)
    choose = partial(example["rare_nuclei"], query="area_um2 > 1e9", n_most=3, objective="40X")
    visits = list(example["acquire"](core, client, example["grid"](2, 400.0), choose))
    assert [visit.index.t for visit in visits] == [0] * 4


def test_a_query_of_what_nuclei_do_not_have_is_refused(example: dict[str, Any]) -> None:
    nuclei = pd.DataFrame({"area_um2": [5.0], "score": [0.9]})
    visit = example["Visit"](FrameIndex(), (0.0, 0.0), 0.5, nuclei)
    for query in ("area > 3", "area_um2 >"):
        with pytest.raises(InvalidOption, match="expected a comparison of area_um2, score"):
            list(example["rare_nuclei"]([visit], query, 1, None))


def test_a_mistake_in_the_query_is_told_before_the_scan() -> None:
    for query in ("area > 3", "area_um2 >", "area_um2"):
        command = [sys.executable, str(EXAMPLE), "--address", "127.0.0.1:1", "--find", query]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert run.returncode == 1
        assert run.stderr.startswith("error: --find cannot be used: ")
        assert "expected a comparison of area_px, area_um2, eccentricity" in run.stderr
        assert run.stdout == ""


def test_a_nucleus_that_two_frames_show_is_returned_to_once(example: dict[str, Any]) -> None:
    nuclei = pd.DataFrame(
        [(50.0, 0.9, 0.0, 0.0), (50.0, 0.8, 1.0, 1.0), (50.0, 0.7, 9.0, 0.0)],
        columns=["area_um2", "score", "stage_x_um", "stage_y_um"],
    )
    both = example["Visit"](FrameIndex(), (0.0, 0.0), 0.5, nuclei)
    events = list(example["rare_nuclei"]([both], "area_um2 > 1", 3, None))
    assert [(event.x_pos, event.y_pos) for event in events] == [(0.0, 0.0), (9.0, 0.0)]


def test_nuclei_are_where_the_stage_saw_them(example: dict[str, Any], client: Client) -> None:
    core = example["open_microscope"](None)
    choose = partial(example["most_nuclei"], n_best=1, returns=1)
    for visit in example["acquire"](core, client, example["grid"](2, 1000.0), choose):
        places = visit.nuclei[["stage_x_um", "stage_y_um"]].to_numpy()
        assert (np.abs(places - visit.stage_um) <= 256 * visit.pixel_size_um).all()


def test_affine_turns_around_the_middle_of_the_frame(example: dict[str, Any]) -> None:
    place = StagePosition(100.0, 200.0)
    matrix = example["pixel_to_stage"]((0.0, -0.5, 9.0, 0.25, 0.0, 9.0), place, (5, 3))
    np.testing.assert_allclose(matrix @ (1, 2, 1), (100, 200))
    np.testing.assert_allclose(matrix @ (2, 2, 1), (100, 200.25))


def test_absent_gateway_ends_the_acquisition(example: dict[str, Any]) -> None:
    core = example["open_microscope"](None)
    with Client("127.0.0.1:1") as nobody, pytest.raises(EngineUnavailable):
        list(example["acquire"](core, nobody, example["grid"](2, 400.0), list))
    assert not core.mda.is_running()


@pytest.mark.parametrize(
    "choice",
    [
        ("--returns", "1"),
        ("--find", "area_um2 > 60", "--scan-objective", "10X", "--objective", "40X"),
    ],
)
def test_example_runs_as_it_is(gateway: "Gateway", choice: tuple[str, ...]) -> None:
    command = [sys.executable, str(EXAMPLE), "--address", gateway.grpc_address, "--grid", "2"]
    run = subprocess.run(
        [*command, "--best", "1", *choice],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("t=")]
    assert [line[:3] for line in lines] == ["t=0"] * 4 + ["t=1"]
    assert all(line.endswith("nuclei") for line in lines)
