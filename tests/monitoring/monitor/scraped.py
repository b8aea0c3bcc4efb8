"""Something that is scraped, and a real Prometheus that scrapes it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports

START_S = 30.0
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
scrape_configs:
  - job_name: gateway
    static_configs: [{{targets: {gateways}}}]
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


@contextmanager
def running_prometheus(folder: Path, *gateways: str) -> Iterator[str]:
    """A Prometheus that scrapes these every second; its address."""
    (port,) = free_ports(1)
    (folder / "rules.yaml").write_text(RULES)
    configuration = folder / "prometheus.yml"
    configuration.write_text(CONFIGURATION.format(gateways=json.dumps(gateways)))
    command = [
        *("prometheus", f"--config.file={configuration}"),
        *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={LOOPBACK}:{port}"),
    ]
    process = Child("prometheus", command, {}, folder / "prometheus.log")
    process.start()
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        process.stop(10)


def wait_until(true: Callable[[], object], what: str) -> None:
    """Fail the test unless this becomes true soon."""
    deadline = time.monotonic() + START_S
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"in vain waited until {what}")
        time.sleep(0.1)
