"""A real Prometheus, and what it answers."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports
from tests.prerequisites import require_programs

START_S = 30.0


@dataclass(frozen=True)
class Prometheus:
    """Asks a running Prometheus; attributes: http: a client at its address."""

    http: httpx.Client

    def range(self, expression: str, since: float, step_s: float = 1.0) -> list[dict[str, Any]]:
        """The series of an expression from a time, Unix seconds, until now."""
        times = {"start": since, "end": time.time(), "step": step_s}
        answer = self._data("query_range", query=expression, **times)
        series: list[dict[str, Any]] = answer["result"]
        return series

    def wait_for(self, expression: str, since: float, seconds: float = 30.0) -> None:
        """Wait until an expression has a value."""
        deadline = time.monotonic() + seconds
        while not self.range(expression, since):
            assert time.monotonic() < deadline, f"no value of {expression}"
            time.sleep(0.1)

    def series(self, selector: str, since: float) -> list[dict[str, str]]:
        """The labels of the series that a selector has matched since a time."""
        found: list[dict[str, str]] = self._data("series", start=since, **{"match[]": selector})
        return found

    def exemplars(self, expression: str, since: float) -> list[dict[str, Any]]:
        """The exemplars of the series in an expression since a time."""
        found: list[dict[str, Any]] = self._data(
            "query_exemplars", query=expression, start=since, end=time.time()
        )
        return found

    def _data(self, call: str, **parameters: Any) -> Any:
        answer = self.http.get(f"/api/v1/{call}", params=parameters).json()
        assert answer["status"] == "success", f"{answer.get('error')} in {parameters}"
        return answer["data"]


@contextmanager
def running_prometheus(folder: Path, environment: Mapping[str, str]) -> Iterator[Prometheus]:
    """Start Prometheus on the `prometheus.yml` of a folder, into which it also writes."""
    require_programs("prometheus", install="apt-get install prometheus")
    (port,) = free_ports(1)
    command = [
        *("prometheus", f"--config.file={folder / 'prometheus.yml'}"),
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    process = Child("Prometheus", command, environment, folder / "prometheus.log")
    process.start()
    try:
        with httpx.Client(base_url=f"http://{LOOPBACK}:{port}", timeout=30) as http:
            deadline = time.monotonic() + START_S
            while not _ready(http):
                if not process.running or time.monotonic() > deadline:
                    pytest.fail(f"Prometheus does not start:\n{process.last_lines(20)}")
                time.sleep(0.1)
            yield Prometheus(http)
    finally:
        process.stop(10.0)


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/-/ready").is_success
    except httpx.TransportError:
        return False
