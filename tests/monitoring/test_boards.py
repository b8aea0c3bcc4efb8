"""What the dashboards show: of everything that is measured, and only of that."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client import REGISTRY

import nuclei.probe  # noqa: F401 - declares metrics, as the next
import serving.promotion.metrics  # noqa: F401
from monitoring.boards import dashboards
from monitoring.boards.quality import MEASURES
from monitoring.panels import Dashboard, Panel, Source
from monitoring.rule import Dashboard as DashboardOfAlerts
from monitoring.rules import rendered
from monitoring.thresholds import read_thresholds
from nuclei.results.quality import Quality
from serving.gateway import metrics as gateway
from tests.monitoring.expressions import declared, metrics

BOARDS = dashboards(read_thresholds())
PANELS = [(board, panel) for board in BOARDS for panel in board.panels()]
STANDINS = Path(__file__).parent / "standins"


def expressions() -> Iterator[str]:
    """Of all panels, events and rules."""
    for board in BOARDS:
        for panel in board.panels():
            yield from (query.expression for query in panel.queries)
        yield from (event.expression for event in board.events)
    for name, text in rendered(read_thresholds()).items():
        if name.startswith("rules/"):
            for group in yaml.safe_load(text)["groups"]:
                yield from (rule["expr"] for rule in group["rules"])


def of(panel: Panel) -> set[str]:
    return set().union(*(metrics(query.expression) for query in panel.queries))


def written(source: Source) -> set[str]:
    """The metrics in the text that stands in for a source."""
    lines = (STANDINS / f"{source}.prom").read_text().splitlines()
    return {line.split()[2] for line in lines if line.startswith("# TYPE")}


def declarations() -> set[str]:
    """The metrics that the parts of the service declare."""
    return {each.name for each in REGISTRY.collect() if each.name.startswith("nuclei_")}


def test_every_metric_is_in_a_panel_or_a_rule() -> None:
    shown = {declared(name) for expression in expressions() for name in metrics(expression)}
    assert declarations() - shown == set()
    assert len(declarations()) > 40


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_dashboard_substitutes_its_variables_and_names_its_panels_once(board: Dashboard) -> None:
    titles = [panel.title for row in board.rows for panel in row.panels]
    assert len(titles) == len(set(titles))
    for panel in board.panels():
        for query in panel.queries:
            assert "$" not in board.substituted(query.expression, "1m")
    for event in board.events:
        assert "$" not in board.substituted(event.expression, "1m")


def test_dashboards_lead_to_one_another_and_alerts_to_them() -> None:
    names = {board.name for board in BOARDS}
    assert {panel.leads_to for _, panel in PANELS} - {""} <= names
    assert set(get_args(DashboardOfAlerts)) == names


def test_every_measure_of_quality_is_shown_and_counted() -> None:
    measures = [field.name for field in fields(Quality)]
    assert list(MEASURES) == measures
    assert list(gateway.QUALITY_BUCKETS) == measures


@pytest.mark.parametrize("source", [each for each in Source if each is not Source.SERVICE])
def test_what_cannot_be_started_here_has_a_stand_in_and_is_named_so(source: Source) -> None:
    """No panel of the running service hides behind written text."""
    asked = {name for _, panel in PANELS if panel.source is source for name in of(panel)}
    assert asked == written(source)
    others = {name for _, panel in PANELS if panel.source is not source for name in of(panel)}
    assert not others & written(source)


def test_a_budget_may_burn_as_fast_as_when_every_frame_is_bad() -> None:
    budgets = [panel for _, panel in PANELS if panel.title.endswith("how fast the budget burns")]
    fastest = {
        panel.title.split(":")[0]: {
            1 / float(query.expression.rpartition(" / ")[2]) for query in panel.queries
        }
        for panel in budgets
    }
    assert fastest == {"Failing frames": {1000.0}, "Slow frames": {100.0}}
    assert [panel.highest for panel in budgets] == [1000.0, 100.0]


def test_limits_are_the_thresholds_of_the_alerts() -> None:
    before = read_thresholds()
    queue = before.alerts.QueueGrowing.model_copy(update={"waiting_frames": 7})
    alerts = before.alerts.model_copy(update={"QueueGrowing": queue})
    changed = dashboards(before.model_copy(update={"alerts": alerts}))
    moved = [
        (panel.title, panel.limit.value)
        for board, other in zip(changed, BOARDS, strict=True)
        for panel, same in zip(board.panels(), other.panels(), strict=True)
        if panel != same and panel.limit is not None
    ]
    assert moved == [("Waiting frames", 7)]
