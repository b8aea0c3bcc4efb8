"""`nuclei monitor`, started as a user starts it."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from monitoring.monitor.process import run
from nuclei.errors import InvalidOption, MissingPrerequisite
from nuclei.process.ports import LOOPBACK, free_ports
from tests.monitoring.monitor.scraped import INSTALL, Exporter, wait_until
from tests.prerequisites import require_programs
from tests.serving.leftovers import living
from tests.serving.served import NUCLEI

pytestmark = pytest.mark.slow

STOP_S = 60.0


class Monitor:
    """A running `nuclei monitor`."""

    def __init__(self, folder: Path, *options: str) -> None:
        (self.port,) = free_ports(1)
        self.log = folder / "monitor.log"
        command = [NUCLEI, "monitor", "--port", str(self.port), "--state", str(folder), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "300"}
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def page(self, path: str = "/monitor") -> httpx.Response:
        url = f"http://{LOOPBACK}:{self.port}{path}"
        return httpx.get(url, follow_redirects=True, timeout=30)

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.output
            return "Ready" in self.output

        wait_until(ready, "the monitor is ready")


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Callable[..., Monitor]]:
    require_programs("prometheus", "prometheus-alertmanager", "promtool", install=INSTALL)
    with ExitStack() as stack:

        def start(*options: str) -> Monitor:
            started = Monitor(tmp_path, *options)
            stack.callback(started.process.wait, STOP_S)
            stack.callback(started.process.terminate)
            return started

        yield start


def test_shows_what_it_scrapes_until_it_is_stopped_and_leaves_nothing(
    monitor: Callable[..., Monitor], exporter: Exporter
) -> None:
    running = monitor("--target", f"gateway={exporter.address}")
    running.wait_ready()
    assert f"http://{LOOPBACK}:{running.port}/monitor" in running.output
    wait_until(lambda: '<li class="good"' in running.page().text, "a target is up")
    assert "Frames by protocol" in running.page("/monitor/service").text
    family = psutil.Process(running.process.pid).children(recursive=True)
    assert len(family) == 2
    sockets = [socket for each in family for socket in each.net_connections()]
    assert {socket.laddr.ip for socket in sockets if socket.status == "LISTEN"} == {LOOPBACK}
    prometheus = next(each for each in family if each.name() == "prometheus")
    prometheus.kill()
    wait_until(lambda: "prometheus has ended: killed by SIGKILL" in running.output, "it is said")
    page = running.page()
    assert page.status_code == 503
    assert "prometheus has ended" in page.text
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(STOP_S) == 0, running.output
    assert "Traceback" not in running.output
    assert not living(family)


def test_ends_with_its_terminal(monitor: Callable[..., Monitor], exporter: Exporter) -> None:
    """Killed, it can stop nothing itself."""
    running = monitor("--target", f"gateway={exporter.address}")
    running.wait_ready()
    family = psutil.Process(running.process.pid).children(recursive=True)
    running.process.kill()
    wait_until(lambda: not living(family), "all have ended")


def test_says_what_it_lacks(exporter: Exporter, tmp_path: Path) -> None:
    require_programs("prometheus", "prometheus-alertmanager", "promtool", install=INSTALL)
    (free,) = free_ports(1)
    with pytest.raises(MissingPrerequisite, match="`make serve`"):
        run(free, tmp_path, [])
    with pytest.raises(InvalidOption, match="expected one of"):
        run(free, tmp_path, ["gatewy=a:1"])
    with pytest.raises(MissingPrerequisite, match=f"port {exporter.port} for the page"):
        run(exporter.port, tmp_path, ["gateway=a:1"])
