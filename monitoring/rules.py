"""Writes the files of Prometheus and Alertmanager from the thresholds.

`python -m monitoring.rules` writes them into monitoring/prometheus/, and what the autoscalers read
as a PrometheusRule into k8s/; `--check` says which of them is out of date.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import yaml

from monitoring.alerts import EVERY_JOB, OUR_JOBS, alerts, champions
from monitoring.inhibitions import INHIBITIONS
from monitoring.objectives import objective_rules
from monitoring.rule import Alert, Recording
from monitoring.scaling import scaling_rules
from monitoring.thresholds import ROOT, THRESHOLDS, Job, Thresholds, read_thresholds
from nuclei.errors import InvalidData, NucleiError

FOLDER = ROOT / "monitoring" / "prometheus"
CLUSTER = ROOT / "k8s" / "components"
COMMAND = "python -m monitoring.rules"


def rendered(thresholds: Thresholds) -> dict[str, str]:
    """The files: their paths below the folder of Prometheus' configuration, and their texts."""
    return {
        "prometheus.yml": _file(_prometheus(thresholds)),
        "alertmanager.yml": _file(_alertmanager(thresholds)),
        "rules/objectives.yaml": _file(_objectives(thresholds)),
        "rules/alerts.yaml": _file(_alerts(thresholds)),
        "rules/scaling.yaml": _file(_scaling(thresholds)),
    }


def rendered_for_cluster(thresholds: Thresholds) -> dict[str, str]:
    """The rules for k8s/components: objects that the Prometheus operator takes."""
    return {
        "monitoring/rules.yaml": _object(
            "alerts", _objectives(thresholds), _alerts(thresholds, OUR_JOBS)
        ),
        "scaling/rules.yaml": _object("scaling", _scaling(thresholds)),
    }


def _object(name: str, *files: dict[str, Any]) -> str:
    groups = [group for file in files for group in file["groups"]]
    return _file(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": name},
            "spec": {"groups": groups},
        }
    )


def _objectives(thresholds: Thresholds) -> dict[str, Any]:
    return _group("objectives", thresholds, objective_rules(thresholds))


def _alerts(thresholds: Thresholds, jobs: str = EVERY_JOB) -> dict[str, Any]:
    return _group("alerts", thresholds, [*champions(), *alerts(thresholds, jobs)])


def _scaling(thresholds: Thresholds) -> dict[str, Any]:
    return _group("scaling", thresholds, [*scaling_rules(thresholds)])


def write(files: dict[str, str], folder: Path) -> None:
    """Write files, by their names, into a folder, which is made when it is missing.

    Raises:
        OSError: it cannot be written.
    """
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def check(files: dict[str, str], folder: Path) -> None:
    """Raises InvalidData when a file in a folder is not as it would be written."""
    for name, text in files.items():
        file = folder / name
        there = file.read_text() if file.is_file() else ""
        if there != text:
            line = _first_difference(there, text)
            raise InvalidData(f"{file}, line {line}: not what the thresholds give; run `{COMMAND}`")


def _prometheus(thresholds: Thresholds) -> dict[str, Any]:
    return {
        "global": {
            "scrape_interval": thresholds.scrape.interval,
            "evaluation_interval": thresholds.scrape.evaluation,
        },
        "rule_files": ["rules/*.yaml"],
        "alerting": {"alertmanagers": [_targets("alertmanager")]},
        "scrape_configs": [
            # The token that callers of the gateway send; an empty file where it has none.
            {
                "job_name": job,
                **(
                    {"authorization": {"credentials_file": "gateway.token"}}
                    if job == "gateway"
                    else {}
                ),
                **_targets(job),
            }
            for job in get_args(Job)
        ],
    }


def _targets(job: str) -> dict[str, Any]:
    return {"file_sd_configs": [{"files": [f"targets/{job}.yaml"]}]}


def _alertmanager(thresholds: Thresholds) -> dict[str, Any]:
    notifications = thresholds.notifications
    return {
        "route": {
            "receiver": "ticket",
            "group_by": ["alertname", "model"],
            "group_wait": notifications.group_wait,
            "group_interval": notifications.group_interval,
            "repeat_interval": notifications.repeat_ticket,
            "routes": [
                {
                    "receiver": "page",
                    "matchers": ['severity="page"'],
                    "repeat_interval": notifications.repeat_page,
                }
            ],
        },
        "inhibit_rules": [each.rule() for each in INHIBITIONS],
        "receivers": [
            {"name": "page", **notifications.page},
            {"name": "ticket", **notifications.ticket},
        ],
    }


def _group(name: str, thresholds: Thresholds, rules: list[Recording | Alert]) -> dict[str, Any]:
    """Rules of one group are evaluated in their order: alerts see what was just recorded."""
    return {
        "groups": [
            {
                "name": name,
                "rules": [
                    rule.rule(thresholds.links) if isinstance(rule, Alert) else rule.rule()
                    for rule in rules
                ],
            }
        ]
    }


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _file(content: dict[str, Any]) -> str:
    header = f"# Written by `{COMMAND}` from {THRESHOLDS.relative_to(ROOT)}; change that.\n"
    return header + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000)


def _first_difference(one: str, other: str) -> int:
    lines, others = one.splitlines(), other.splitlines()
    pairs = zip(lines, others, strict=False)
    same = min(len(lines), len(others))
    return next((n for n, (a, b) in enumerate(pairs, 1) if a != b), same + 1)


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say which file is out of date")
    options = parser.parse_args(arguments)
    try:
        thresholds = read_thresholds()
        act = check if options.check else write
        act(rendered(thresholds), FOLDER)
        act(rendered_for_cluster(thresholds), CLUSTER)
    except NucleiError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
