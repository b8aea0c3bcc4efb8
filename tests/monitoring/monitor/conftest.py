"""A real Prometheus that scrapes metrics which the tests set."""

from collections.abc import Iterator

import httpx
import pytest

from nuclei.process.ports import LOOPBACK, free_ports
from tests.monitoring.monitor.scraped import INSTALL, Exporter, running_prometheus, wait_until
from tests.prerequisites import require_programs


@pytest.fixture(scope="session")
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.close()


@pytest.fixture(scope="session")
def prometheus(exporter: Exporter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, once an alert fires and there are several values of everything."""
    require_programs("prometheus", install=INSTALL)

    def asked(expression: str) -> list[object]:
        try:
            reply = httpx.get(f"{url}/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            return []
        return list(reply.json()["data"]["result"]) if reply.status_code == 200 else []

    # The second is down.
    (closed,) = free_ports(1)
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, exporter.address, f"{LOOPBACK}:{closed}") as url:
        wait_until(lambda: asked('ALERTS{alertstate="firing"}'), "an alert fires")
        for _ in range(10):
            exporter.seconds.observe(0.2)
            exporter.frames.labels("unet.3", "3", "a").inc()
        wait_until(lambda: asked("rate(test_seconds_count[4s]) > 0"), "frames are counted")
        yield url
