"""An alert's whole way: a target that ends, Prometheus, Alertmanager, whoever is called."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx
import pytest

from monitoring.monitor.programs import Configuration, Programs, find_programs
from monitoring.monitor.targets import Targets
from monitoring.rules import rendered, write
from monitoring.thresholds import Lasting, Thresholds, read_thresholds
from nuclei.process.ports import LOOPBACK, free_ports
from serving.gateway import metrics
from tests.monitoring.conftest import INSTALL
from tests.prerequisites import require_programs

TOKEN = "of the gateway"
LONGEST_S = 40.0


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[int]:
    """A server on loopback, which ends with the block; gives its port."""
    with ThreadingHTTPServer((LOOPBACK, port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class GatewayMetrics(BaseHTTPRequestHandler):
    """A gateway as Prometheus sees it: its metrics, for those who send the token."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send_error(401)
            return
        text, content_type = metrics.exposition(self.headers.get("Accept", ""))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def called() -> Queue[dict[str, Any]]:
    """What whoever is on call was sent."""
    return Queue()


@pytest.fixture
def thresholds(called: Queue[dict[str, Any]]) -> Iterator[Thresholds]:
    """Those of the project, in a hurry, and with a webhook of this test for pages."""

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            called.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    given = read_thresholds()
    soon = Lasting.model_validate({"for": "2s"})
    with serving(Webhook) as port:
        receiver = {"webhook_configs": [{"url": f"http://{LOOPBACK}:{port}/"}]}
        yield given.model_copy(
            update={
                "scrape": given.scrape.model_copy(
                    update={"interval": "1s", "evaluation": "1s", "expected": ["gateway"]}
                ),
                "notifications": given.notifications.model_copy(
                    update={
                        "page": receiver,
                        "ticket": receiver,
                        "group_wait": "1s",
                        "group_interval": "1s",
                    }
                ),
                "alerts": given.alerts.model_copy(
                    update={"ServiceDown": soon, "TargetMissing": soon}
                ),
            }
        )


@pytest.mark.slow
def test_an_alert_arrives_when_the_gateway_ends_and_again_when_it_is_back(
    thresholds: Thresholds,
    called: Queue[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_programs("prometheus", "promtool", "prometheus-alertmanager", install=INSTALL)
    monkeypatch.setenv("NUCLEI_TOKEN", TOKEN)
    write(rendered(thresholds), tmp_path / "configuration")
    (port,) = free_ports(1)
    programs = Programs(
        tmp_path / "home",
        find_programs(),
        Configuration(tmp_path / "configuration"),
        Targets({"gateway": (f"{LOOPBACK}:{port}",)}),
    )
    with programs:
        with serving(GatewayMetrics, port):
            _wait_until(programs.prometheus_url, 'up{job="gateway"}', 1)
        ended = time.monotonic()
        sent = called.get(timeout=LONGEST_S)
        # The ticket may come before the page that suppresses it: both wait for seconds only here.
        if sent["receiver"] == "ticket":
            sent = called.get(timeout=LONGEST_S)
        assert time.monotonic() - ended < LONGEST_S
        (alert,) = sent["alerts"]
        assert (sent["receiver"], sent["status"]) == ("page", "firing")
        assert alert["labels"] == {
            "alertname": "ServiceDown",
            "job": "gateway",
            "severity": "page",
        }
        assert alert["annotations"]["runbook_url"] == "docs/runbooks/ServiceDown.md"
        # The target that is missing, too, is no news.
        assert _suppressed(programs.alertmanager_url) == {"TargetMissing"}
        with pytest.raises(Empty):
            called.get(timeout=3)
        with serving(GatewayMetrics, port):
            assert called.get(timeout=LONGEST_S)["status"] == "resolved"


def _wait_until(prometheus: str, query: str, wanted: float) -> None:
    deadline = time.monotonic() + LONGEST_S
    values = None
    while time.monotonic() < deadline:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}, trust_env=False)
        values = [float(each["value"][1]) for each in answer.json()["data"]["result"]]
        if values == [wanted]:
            return
        time.sleep(0.2)
    pytest.fail(f"{query} is {values}, expected {wanted}")


def _suppressed(alertmanager: str) -> set[str]:
    """Names of the alerts that another one keeps from being sent, once there is one."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        alerts = httpx.get(f"{alertmanager}/api/v2/alerts", trust_env=False).json()
        names = {each["labels"]["alertname"] for each in alerts if each["status"]["inhibitedBy"]}
        if names:
            return names
        time.sleep(0.2)
    return set()
