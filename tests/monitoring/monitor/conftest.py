"""A real Prometheus that scrapes metrics which the tests set."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nuclei.process.ports import LOOPBACK, free_ports
from tests.monitoring.monitor.scraped import INSTALL, Exporter, Urls, running_prometheus, wait_until
from tests.prerequisites import require_programs


@pytest.fixture(scope="session")
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.close()


@pytest.fixture(scope="session")
def urls(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Urls]:
    """Once an alert fires, another is suppressed, and there are several values of everything."""
    require_programs("prometheus", "prometheus-alertmanager", install=INSTALL)

    def asked(url: str, **parameters: str) -> Any:
        try:
            reply = httpx.get(url, params=parameters)
        except httpx.TransportError:
            return {}
        return reply.json() if reply.status_code == 200 else {}

    # The second is down.
    (closed,) = free_ports(1)
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, exporter.address, f"{LOOPBACK}:{closed}") as urls:
        query = f"{urls.prometheus}/api/v1/query"
        wait_until(
            lambda: "suppressed" in str(asked(f"{urls.alertmanager}/api/v2/alerts")),
            "an alert is suppressed",
        )
        for _ in range(10):
            exporter.seconds.observe(0.2)
            exporter.frames.labels("unet.3", "3", "a").inc()
        counted = "rate(test_seconds_count[4s]) > 0"
        wait_until(lambda: asked(query, query=counted)["data"]["result"], "frames are counted")
        yield urls
