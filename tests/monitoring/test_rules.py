"""The files of Prometheus and Alertmanager: as generated, valid, and each alert proven."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from monitoring.inhibitions import UNEXPLAINED
from monitoring.rule import Alert
from monitoring.rules import FOLDER, check, rendered, write
from monitoring.thresholds import ROOT, read_thresholds
from nuclei.errors import InvalidData, NucleiError
from tests.monitoring.conftest import METRIC
from tests.monitoring.expressions import metrics

RULES = [
    rule
    for file in sorted((FOLDER / "rules").glob("*.yaml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = sorted({rule["alert"] for rule in RULES if "alert" in rule})
TESTS = sorted((FOLDER / "tests").glob("*.yaml"))


def test_the_files_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "monitoring.rules", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "alertmanager.yml", "rules/alerts.yaml"])
def test_a_file_that_is_out_of_date_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    thresholds = read_thresholds()
    write(rendered(thresholds), tmp_path)
    check(rendered(thresholds), tmp_path)
    lines = (tmp_path / name).read_text().splitlines(keepends=True)
    (tmp_path / name).write_text("".join([*lines[:3], "# changed by hand\n", *lines[3:]]))
    with pytest.raises(InvalidData, match=re.escape(f"{name}, line 4: not what the thresholds")):
        check(rendered(thresholds), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InvalidData, match=re.escape(f"{name}, line 1: not what the thresholds")):
        check(rendered(thresholds), tmp_path)


def test_prometheus_and_alertmanager_take_the_files(tool: Callable[..., str]) -> None:
    tool("promtool", "check", "config", "prometheus.yml")
    tool(
        "promtool",
        "check",
        "rules",
        *(f"rules/{name}.yaml" for name in ("objectives", "alerts", "scaling")),
    )
    tool("amtool", "check-config", "alertmanager.yml")


def test_what_is_subtracted_is_read_in_one_query() -> None:
    """A scrape may arrive between two rules: a difference of their samples may be negative."""
    recorded = [rule["expr"] for rule in RULES if "record" in rule]
    differences = [expression for expression in recorded if " - " in expression]
    assert differences
    for expression in differences:
        assert not any(":" in series for series in metrics(expression)), expression


def test_no_token_is_in_the_repository() -> None:
    assert (FOLDER / "gateway.token").read_bytes() == b""


@pytest.mark.slow
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_alerts_fire_and_stay_silent(tool: Callable[..., str], file: Path) -> None:
    tool("promtool", "test", "rules", f"tests/{file.name}")


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    cases = [
        (case["alertname"], bool(case["exp_alerts"]))
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    assert {name for name, fires in cases if fires} == set(ALERTS)
    assert {name for name, fires in cases if not fires} == set(ALERTS)


def test_what_the_rules_ask_for_is_measured_or_recorded(series: frozenset[str]) -> None:
    asked = " ".join(re.sub(r'"[^"]*"', "", rule["expr"]) for rule in RULES)
    assert set(METRIC.findall(asked)) <= series
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert set(re.findall(r"\w+(?::\w+)+", asked)) <= recorded


def test_the_codes_of_failures_are_codes_of_errors() -> None:
    codes = {error.grpc_status for error in _errors(NucleiError)}
    assert set(read_thresholds().availability.failures) <= codes


@pytest.mark.parametrize(("severity", "receiver"), [("page", "page"), ("ticket", "ticket")])
def test_alerts_go_to_the_receiver_of_their_severity(
    tool: Callable[..., str], severity: str, receiver: str
) -> None:
    answer = tool(
        *("amtool", "config", "routes", "test", "--config.file=alertmanager.yml"),
        *(f"severity={severity}", "alertname=ServiceDown"),
    )
    assert answer.strip() == receiver


@pytest.mark.parametrize(
    ("firing", "told"),
    [
        ((), 0),
        (('alertname="ProbeFailing"', 'alertname="DriftHigh"'), 2),
        (('alertname="ServiceDown"', 'alertname="ProbeFailing"', 'alertname="DiskFull"'), 2),
        (('alertname="TritonDown"', 'alertname="LatencyBurnFast", size="small"'), 1),
        (
            (
                'alertname="LatencyBurnFast", job="gateway", size="small"',
                'alertname="LatencyBurnSlow", job="gateway", size="small"',
                'alertname="LatencyBurnSlow", job="gateway", size="large"',
            ),
            2,
        ),
    ],
)
def test_alerts_that_another_explains_are_not_counted(
    tool: Callable[..., str], tmp_path: Path, firing: tuple[str, ...], told: int
) -> None:
    series = [f'ALERTS{{alertstate="firing", {labels}}}' for labels in firing]
    case = {
        "input_series": [{"series": each, "values": "1"} for each in series],
        "promql_expr_test": [
            {
                "expr": UNEXPLAINED,
                "eval_time": "0m",
                "exp_samples": [{"labels": "{}", "value": told}],
            }
        ],
    }
    file = tmp_path / "counted.yaml"
    file.write_text(yaml.safe_dump({"tests": [case]}))
    tool("promtool", "test", "rules", str(file))


def test_a_wrong_rule_is_found(tool: Callable[..., str], tmp_path: Path) -> None:
    """promtool would pass if it found no rules at all."""
    shutil.copytree(FOLDER, tmp_path / "prometheus")
    file = tmp_path / "prometheus" / "rules" / "alerts.yaml"
    file.write_text(file.read_text().replace("sum by (job)", "sum by (job", 1))
    config = tmp_path / "prometheus" / "prometheus.yml"
    assert "alerts.yaml" in tool("promtool", "check", "config", str(config), expected=1)


def test_the_dashboards_that_alerts_link_exist() -> None:
    linked = {rule["annotations"]["dashboard"] for rule in RULES if "alert" in rule}
    boards = (ROOT / "monitoring" / "grafana" / "json").glob("*.json")
    there = {json.loads(board.read_text())["uid"] for board in boards}
    assert {link.rpartition("/d/")[2] for link in linked} <= there


def test_annotations_name_runbook_and_dashboard_below_configurable_addresses() -> None:
    links = read_thresholds().links.model_copy(
        update={"runbooks": "https://wiki/runbooks/", "grafana": "https://grafana"}
    )
    alert = Alert("X", "page", "up == 0", "summary", "description", "triton")
    annotations = alert.rule(links)["annotations"]
    assert annotations["runbook_url"] == "https://wiki/runbooks/X.md"
    assert annotations["dashboard"] == "https://grafana/d/nuclei-triton"


def _errors(base: type[NucleiError]) -> list[type[NucleiError]]:
    return [error for child in base.__subclasses__() for error in (child, *_errors(child))]
