import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from monitoring.monitor import charts
from monitoring.monitor.charts import COLOURS, heatmap, lines, strips
from monitoring.monitor.prometheus import Window
from monitoring.panels import Limit, Unit

WINDOW = Window(end=1_700_000_040.0, seconds=60, step=15)
NONE = math.nan


def paths(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="{kind} s\d" d="([^"]*)"', svg)


def test_as_many_series_as_a_panel_draws_have_colours_of_their_own() -> None:
    svg = lines(WINDOW, [[1] * 5] * COLOURS, Unit.COUNT, "")
    used = set(re.findall(r'class="line (s\d+)"', svg))
    assert len(used) == COLOURS
    style = (Path(charts.__file__).parent / "static" / "monitor.css").read_text()
    for theme in style.split("prefers-color-scheme: dark")[:2]:
        colours = dict(re.findall(r"--c(\d+): (#\w+);", theme))
        assert {f"s{number}" for number in colours} == used
        assert len(set(colours.values())) == COLOURS
    assert used <= set(re.findall(r"^\.(s\d+) ", style, re.MULTILINE))


def test_a_gap_in_the_values_is_a_gap_in_the_line() -> None:
    (line,) = paths(lines(WINDOW, [[1, 2, NONE, NONE, 3]], Unit.COUNT, ""), "line")
    assert line.count("M") == 2
    # A lone value is a dot.
    assert line.endswith("h0")


def test_stacked_series_add_up_and_a_missing_one_adds_nothing() -> None:
    svg = lines(WINDOW, [[1, 1, 1, 1, 1], [1, NONE, 1, 1, 1]], Unit.COUNT, "", stacked=True)
    first, second = paths(svg, "line")
    below, above = (float(line.split("L")[0].split()[1]) for line in (first, second))
    assert 150 - above == pytest.approx(2 * (150 - below), abs=0.3)
    assert second.split("L")[1].split()[1] == first.split("L")[1].split()[1]
    assert len(paths(svg, "area")) == 2


def test_a_limit_in_sight_widens_the_axis_and_a_far_one_does_not() -> None:
    near = lines(WINDOW, [[0.2] * 5], Unit.SHARE, "", limit=Limit(0.5))
    far = lines(WINDOW, [[0.0001] * 5], Unit.SHARE, "", limit=Limit(0.5))
    assert 'class="limit"' in near
    assert 'class="limit"' not in far


def test_the_values_at_the_cursor_are_there_as_text() -> None:
    svg = lines(WINDOW, [[0.5, NONE, 0.5, 0.5, 0.25]], Unit.SECONDS, "")
    values = re.search(r'data-values="([^"]*)"', svg)
    assert values is not None
    assert json.loads(values[1].replace("&quot;", '"'))[0] == [
        *("500 ms", "-", "500 ms", "500 ms", "250 ms")
    ]


class Tags(HTMLParser):
    """The names of the elements of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)


def test_labels_cannot_become_markup() -> None:
    hostile = '"></title></svg></div><script>alert(1)</script>'
    for svg in (
        lines(WINDOW, [[1] * 5], Unit.COUNT, hostile),
        strips(WINDOW, [(hostile, [1] * 5)], Unit.VERSION, hostile),
        heatmap(WINDOW, [(1.0, [1] * 5)], Unit.SECONDS, hostile),
    ):
        assert Tags(svg).found <= {"div", "svg", "path", "rect", "line", "text", "title", "p"}


def test_a_strip_has_a_part_for_each_run_of_a_value() -> None:
    svg = strips(WINDOW, [("unet", [3, 3, NONE, 4, 4])], Unit.VERSION, "")
    assert re.findall(r'class="(s\d)" x="([^"]*)" width="([^"]*)"', svg) == [
        ("s0", "0.0%", "40.0%"),
        ("s1", "60.0%", "40.0%"),
    ]
    assert "unet: 4" in svg


def test_a_cell_holds_the_observations_of_its_own_bucket() -> None:
    buckets = [(0.1, [0, 1, 1, 1, 1]), (0.2, [0, 3, 1, 1, 1]), (math.inf, [0, 3, 1, 1, 1])]
    svg = heatmap(WINDOW, buckets, Unit.SECONDS, "")
    assert "0 s to 100 ms: 1 /s" in svg
    assert "100 ms to 200 ms: 2 /s" in svg
    assert svg.count("100 ms to 200 ms") == 1
    assert "200 ms to -" not in svg


@pytest.mark.parametrize("values", [[NONE] * 5, [0] * 5, [-1] * 5, [math.inf] * 5, [5e-324] * 5])
def test_odd_values_are_drawn(values: list[float]) -> None:
    assert "<svg" in lines(WINDOW, [values], Unit.SECONDS, "", limit=Limit(0))
    assert "<svg" in heatmap(WINDOW, [(1.0, values)], Unit.SECONDS, "")
