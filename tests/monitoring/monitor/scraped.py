"""Something that is scraped, and a real Prometheus that scrapes it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports

START_S = 60.0
INSTALL = "apt install prometheus prometheus-alertmanager"

RULES = """
groups:
  - name: test
    interval: 1s
    rules:
      - alert: TooHot
        expr: test_temperature > 10
        labels: {severity: page}
        annotations: {summary: "It is <b>hot</b>."}
      - alert: Unheard
        expr: test_temperature > 11
        labels: {severity: ticket}
        annotations: {summary: no page says more}
"""
# Two targets of one job and one label: a join of many with many, once both are scraped.
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yaml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: [{alertmanager}]}}]}}]}}
scrape_configs:
  - job_name: gateway
    static_configs: [{{targets: {gateways}}}]
"""
# The one alert explains the other.
ALERTMANAGER = """
route: {receiver: nobody, group_wait: 0s}
receivers: [{name: nobody}]
inhibit_rules:
  - {source_matchers: [alertname="TooHot"], target_matchers: [alertname="Unheard"]}
"""


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing of requests."""


class Exporter:
    """Something that Prometheus scrapes."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        labels = ["model", "version", "instance_of"]
        self.temperature = Gauge("test_temperature", "Of nothing.", registry=registry)
        self.temperature.set(12)
        self.share = Gauge("test_share", "With a hostile label.", ["name"], registry=registry)
        self.share.labels("</svg><script>alert(1)</script>").set(0.25)
        self.seconds = Histogram("test_seconds", "Of frames.", registry=registry)
        self.frames = Counter("test_frames", "By model.", labels, registry=registry)
        self.frames.labels("unet.3", "3", "a").inc(5)
        (self.port,) = free_ports(1)
        self._server = make_server(
            LOOPBACK, self.port, make_wsgi_app(registry), handler_class=_Silent
        )
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Urls(NamedTuple):
    """Where both answer."""

    prometheus: str
    alertmanager: str


@contextmanager
def running_prometheus(folder: Path, *gateways: str) -> Iterator[Urls]:
    """A Prometheus that scrapes these every second, and an Alertmanager."""
    port, alertmanager_port = free_ports(2)
    alertmanager = f"{LOOPBACK}:{alertmanager_port}"
    (folder / "rules.yaml").write_text(RULES)
    (folder / "alertmanager.yml").write_text(ALERTMANAGER)
    (folder / "prometheus.yml").write_text(
        CONFIGURATION.format(gateways=json.dumps(gateways), alertmanager=json.dumps(alertmanager))
    )
    commands = {
        "prometheus": [
            *("prometheus", f"--config.file={folder / 'prometheus.yml'}"),
            *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={LOOPBACK}:{port}"),
        ],
        "alertmanager": [
            *("prometheus-alertmanager", f"--config.file={folder / 'alertmanager.yml'}"),
            *(f"--storage.path={folder / 'alerts'}", f"--web.listen-address={alertmanager}"),
            "--cluster.listen-address=",
        ],
    }
    with ExitStack() as stack:
        for name, command in commands.items():
            process = Child(name, command, {}, folder / f"{name}.log")
            process.start()
            stack.callback(process.stop, 10)
        yield Urls(f"http://{LOOPBACK}:{port}", f"http://{alertmanager}")


def wait_until(true: Callable[[], object], what: str) -> None:
    """Fail the test unless this becomes true soon."""
    deadline = time.monotonic() + START_S
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"in vain waited until {what}")
        time.sleep(0.1)
