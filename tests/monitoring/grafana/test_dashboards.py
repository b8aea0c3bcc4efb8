"""The committed JSON of the dashboards, as Grafana reads it."""

import itertools
import json
from typing import Any

import pytest

from monitoring.boards import dashboards
from monitoring.grafana.dashboards import FOLDER, as_json, uid
from monitoring.panels import COLUMNS
from monitoring.thresholds import read_thresholds

BOARDS = {board.name: board for board in dashboards(read_thresholds())}
NAMES = list(BOARDS)
WRITE = "write them anew: python -m monitoring.grafana.dashboards"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def test_there_is_a_file_for_each_dashboard() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in NAMES}, WRITE


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_what_the_description_gives(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == as_json(BOARDS[name]), WRITE


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_a_place_and_a_number_of_their_own(name: str) -> None:
    panels = read(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert cells
        assert columns[-1] < COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", NAMES)
def test_every_query_goes_to_the_chosen_prometheus(name: str) -> None:
    board = read(name)
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    variables = board["templating"]["list"]
    assert variables[0]["type"] == "datasource"
    drawn = [panel for panel in board["panels"] if panel["type"] not in ("row", "text")]
    targets = [target for panel in drawn for target in panel["targets"]]
    asking = [*drawn, *targets, *board["annotations"]["list"], *variables]
    sources = [each["datasource"] for each in asking if "datasource" in each]
    assert sources.count(chosen) == len(sources) >= len(drawn) + len(targets)
    for panel in drawn:
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
        assert panel["description"].endswith((".", "?"))
        assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_dashboards_that_exist(name: str) -> None:
    board = read(name)
    assert board["uid"] == uid(name)
    (others,) = board["links"]
    assert set(others["tags"]) <= set(board["tags"])
    assert others["keepTime"]
    assert others["includeVars"]
    for panel in board["panels"]:
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", ()):
            assert link["url"].split("/d/")[1].split("?")[0] in {uid(each) for each in NAMES}
