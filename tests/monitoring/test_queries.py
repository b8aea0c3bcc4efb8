"""Every query of every panel and rule, asked of a real Prometheus that scraped the real service.

The service is `nuclei serve --sync` as users start it, with `nuclei probe` beside it and callers of
every protocol; Prometheus has the committed configuration but for times and addresses.
"""

import functools
import http.server
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from monitoring.boards import dashboards
from monitoring.panels import Dashboard, Event, Panel, Variable
from monitoring.rules import rendered, write
from monitoring.thresholds import Job, Thresholds, read_thresholds
from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports
from tests.monitoring.expressions import selectors
from tests.monitoring.prometheus import Prometheus, running_prometheus
from tests.monitoring.test_boards import STANDINS
from tests.monitoring.traffic import SETTINGS, Traffic, registered
from tests.prerequisites import require_programs
from tests.serving.served import NUCLEI, Served
from tests.shipped import SHIPPED

pytestmark = [pytest.mark.triton, pytest.mark.slow]

THRESHOLDS = read_thresholds()
BOARDS = dashboards(THRESHOLDS)
# At least four times the interval of scrapes, which is a second here.
INTERVAL = "10s"
RULES: list[dict[str, Any]] = [
    rule
    for name, text in rendered(THRESHOLDS).items()
    if name.startswith("rules/")
    for group in yaml.safe_load(text)["groups"]
    for rule in group["rules"]
]
PANELS = [
    pytest.param(board, panel, id=f"{board.name}/{panel.title}")
    for board in BOARDS
    for panel in board.panels()
]
LABELS = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Watched:
    """A Prometheus, and since when it has watched the service, Unix seconds."""

    prometheus: Prometheus
    since: float

    def series(self, expression: str) -> list[dict[str, Any]]:
        return self.prometheus.range(expression, self.since)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watching(tmp_path_factory.mktemp("watched")) as watched:
        yield watched


@contextmanager
def watching(folder: Path) -> Iterator[Watched]:
    """Start all of it, and let it happen."""
    require_programs("prometheus-node-exporter", install="apt install prometheus-node-exporter")
    registry = registered(folder)
    sync, probe, node, others = free_ports(4)
    served = Served(
        SHIPPED,
        folder,
        NUCLEI_SYNC=registry.tracking_uri,
        NUCLEI_SYNC_PORT=str(sync),
        **SETTINGS,
    )
    # Shadows need the pauses between its frames.
    command = [NUCLEI, "probe", "--address", served.grpc_address, "--every", "5"]
    probing = Child("probe", [*command, "--port", str(probe)], os.environ, folder / "probe.log")
    command = ["prometheus-node-exporter", f"--web.listen-address={LOOPBACK}:{node}"]
    exporter = Child("node exporter", command, os.environ, folder / "node_exporter.log")
    configuration = folder / "prometheus"
    write(rendered(_every_second(THRESHOLDS)), configuration)
    (configuration / "gateway.token").touch()
    _list_targets(
        configuration / "targets",
        standins=others,
        gateway=served.http_port,
        triton=served.triton_metrics_port,
        sync=sync,
        probe=probe,
        node=node,
    )
    try:
        served.wait_ready()
        probing.start()
        exporter.start()
        with running_prometheus(configuration, os.environ) as prometheus, _standins(others):
            since = time.time()
            # Targets are found some seconds after the start; what happened before has no rate.
            prometheus.wait_for('up{job="gateway"} == 1', since)
            traffic = Traffic(served, registry, f"http://{LOOPBACK}:{sync}")
            traffic.frames(rounds=3)
            traffic.webhook()
            traffic.promotions()
            # The last scrapes and evaluations.
            time.sleep(2.5)
            yield Watched(prometheus, since)
    finally:
        probing.stop(10.0)
        exporter.stop(10.0)
        served.process.terminate()
        served.finish()


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_shows_what_its_unit_says(watched: Watched, board: Dashboard, panel: Panel) -> None:
    for query in panel.queries:
        series = watched.series(board.substituted(query.expression, INTERVAL))
        values = _values(series)
        assert values, f"no data: {query.expression}"
        outside = [value for value in values if not panel.lowest <= value <= panel.highest]
        assert not outside, f"{outside[:5]} outside of {panel.lowest} to {panel.highest}"
        for each in series:
            missing = set(LABELS.findall(query.legend)) - each["metric"].keys()
            assert not missing, f"its legend names labels that {each['metric']} has not: {missing}"


@pytest.mark.parametrize(
    ("board", "event"),
    [
        pytest.param(board, event, id=f"{board.name}/{event.name}")
        for board in BOARDS
        for event in board.events
    ],
)
def test_events_are_marked(watched: Watched, board: Dashboard, event: Event) -> None:
    series = watched.series(board.substituted(event.expression, INTERVAL))
    assert _values(series), event.expression
    assert set(LABELS.findall(event.text)) <= set.union(*(set(each["metric"]) for each in series))


@pytest.mark.parametrize(
    ("board", "variable"),
    [
        pytest.param(board, variable, id=f"{board.name}/{variable.name}")
        for board in BOARDS
        for variable in board.variables
        if variable.values
    ],
)
def test_variables_have_values(watched: Watched, board: Dashboard, variable: Variable) -> None:
    asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.values)
    assert asked
    selector, label = asked.groups()
    found = watched.prometheus.series(board.substituted(selector, INTERVAL), watched.since)
    values = {series.get(label, "") for series in found}
    assert any(re.fullmatch(variable.every, value) for value in values - {""}), values


@pytest.mark.parametrize(
    "rule", [pytest.param(rule, id=rule["record"]) for rule in RULES if "record" in rule]
)
def test_what_is_recorded_has_values(watched: Watched, rule: dict[str, Any]) -> None:
    assert _values(watched.series(rule["record"]))


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, id=f"{rule['alert']}-{rule['labels']['severity']}")
        for rule in RULES
        if "alert" in rule
    ],
)
def test_an_alert_asks_for_what_is_measured(watched: Watched, rule: dict[str, Any]) -> None:
    """Most alerts are silent here; but each series that they ask for is there."""
    watched.series(rule["expr"])
    for selector in selectors(rule["expr"]):
        found = watched.prometheus.series(selector, watched.since)
        assert found, f"no series: {selector}"


def test_dots_lead_from_latencies_to_traces(watched: Watched) -> None:
    (panel,) = (
        panel
        for board in BOARDS
        for panel in board.panels()
        if board.name == "service" and panel.title == "Time of an answered frame"
    )
    expression = BOARDS[0].substituted(panel.queries[0].expression, INTERVAL)
    found = watched.prometheus.exemplars(expression, watched.since)
    dots = [dot["labels"]["trace_id"] for series in found for dot in series["exemplars"]]
    assert dots
    assert all(re.fullmatch("[0-9a-f]{32}", dot) for dot in dots)


def _values(series: list[dict[str, Any]]) -> list[float]:
    """All values of all series, without what is no number."""
    values = [float(value) for each in series for _, value in each["values"]]
    return [value for value in values if not math.isnan(value)]


def _every_second(thresholds: Thresholds) -> Thresholds:
    often = thresholds.scrape.model_copy(update={"interval": "1s", "evaluation": "1s"})
    return thresholds.model_copy(update={"scrape": often})


def _list_targets(folder: Path, standins: int, **ports: int) -> None:
    """Let Prometheus find the parts of the service, the machine, and stand-ins for more."""
    folder.mkdir()
    for job in get_args(Job):
        targets: list[dict[str, Any]] = []
        if job in ports:
            targets = [{"targets": [f"{LOOPBACK}:{ports[job]}"]}]
        if job == "node":
            targets += [
                {
                    "targets": [f"{LOOPBACK}:{standins}"],
                    "labels": {"__metrics_path__": f"/{each.name}"},
                }
                for each in STANDINS.iterdir()
            ]
        (folder / f"{job}.yaml").write_text(yaml.safe_dump(targets))


@contextmanager
def _standins(port: int) -> Iterator[None]:
    """Serve text such as the exporters write that do not run here."""
    handler = functools.partial(_Quiet, directory=str(STANDINS))
    with http.server.ThreadingHTTPServer((LOOPBACK, port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files as Prometheus' text, and logs nothing."""

    def guess_type(self, path: object) -> str:
        return "text/plain; version=0.0.4"

    def log_message(self, format: str, *arguments: object) -> None:
        pass
