"""The pages of the alerts: each has its sections, and what it names exists.

Commands, options, files and links in them are checked by tests/test_documents.py.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from monitoring.thresholds import ROOT
from nuclei.errors import NucleiError
from nuclei.results.quality import Quality
from tests.monitoring.conftest import METRIC
from tests.monitoring.test_rules import ALERTS, RULES

FOLDER = ROOT / "docs" / "runbooks"
SECTIONS = ["What it means", "What to look at", "What to do"]
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
SECTION = re.compile(r"^## (.+)\n\n((?:(?!^## ).*\n)+)", re.MULTILINE)
QUERIES = re.compile(r"```promql\n(.*?)```", re.DOTALL)
ROW = re.compile(r"^\| \[(\w+)\]\((\w+)\.md\) \| ([\w, ]+) \|", re.MULTILINE)
CODES = re.compile(r"`([A-Z_]+)`")


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    assert sorted(page.stem for page in FOLDER.glob("*.md")) == sorted([*ALERTS, "README"])


@pytest.mark.parametrize("alert", ALERTS)
def test_a_page_says_what_it_means_what_to_look_at_and_what_to_do(alert: str) -> None:
    text = (FOLDER / f"{alert}.md").read_text()
    assert TITLE.findall(text) == [alert]
    sections = dict(SECTION.findall(text))
    assert list(sections) == SECTIONS
    assert all(len(body.split()) >= 20 for body in sections.values())


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_the_metrics_that_are_named_exist(page: Path, series: frozenset[str]) -> None:
    text = re.sub(r"[\w/]+\.(?:md|png|log|yaml)\b", "", page.read_text())
    assert set(METRIC.findall(text)) <= series | {field.name for field in fields(Quality)}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert set(re.findall(r"\bjob\w*:\w+:\w+", text)) <= recorded


def test_the_queries_are_promql(tool: Callable[..., str], tmp_path: Path) -> None:
    queries = [
        (page.stem, query)
        for page in sorted(FOLDER.glob("*.md"))
        for block in QUERIES.findall(page.read_text())
        for query in block.splitlines()
    ]
    rules = [
        {"record": f"{name}:{number}", "expr": query}
        for number, (name, query) in enumerate(queries)
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert {name for name, _ in queries} == set(ALERTS)
    tool("promtool", "check", "rules", str(file))


def test_the_table_lists_all_alerts_with_their_severities() -> None:
    severities = defaultdict(list)
    for rule in RULES:
        if "alert" in rule:
            severities[rule["alert"]].append(rule["labels"]["severity"])
    rows = ROW.findall((FOLDER / "README.md").read_text())
    assert {name: listed.split(", ") for name, _, listed in rows} == severities
    assert all(name == link for name, link, _ in rows)


def test_the_page_says_of_every_code_whether_it_counts_as_a_failure() -> None:
    errors = [*NucleiError.__subclasses__()]
    codes = {error.grpc_status for error in errors} | {"OK", "CANCELLED", "SKIPPED"}
    assert codes <= set(CODES.findall((FOLDER / "README.md").read_text()))
