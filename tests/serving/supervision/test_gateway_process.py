"""The gateway's process, without Triton; test_launcher.py starts both."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from nuclei.errors import EngineFailed, InvalidOption
from nuclei.process.ports import LOOPBACK, free_ports
from serving.gateway.settings import GatewaySettings
from serving.settings import ServeSettings
from serving.supervision.gateway_process import GatewayProcess, default_model
from tests.serving.leftovers import living

SHIPPED = Path(__file__).parents[3] / "model_repository"


def test_the_default_model_is_that_of_the_setting() -> None:
    assert default_model(SHIPPED, GatewaySettings(default_model="unet")) == "unet"
    with pytest.raises(InvalidOption, match=r"'linknet'.*expected one of unet"):
        default_model(SHIPPED, GatewaySettings(default_model="linknet"))


def test_without_a_setting_it_is_the_first_of_the_repository(tmp_path: Path) -> None:
    config = (SHIPPED / "unet" / "config.pbtxt").read_text()
    (tmp_path / "fpn").mkdir()
    (tmp_path / "fpn" / "config.pbtxt").write_text(config.replace('name: "unet"', 'name: "fpn"'))
    assert default_model(tmp_path, GatewaySettings()) == "fpn"


@dataclass(frozen=True)
class Running:
    """A gateway that serves, and its folder for temporary files."""

    process: GatewayProcess
    url: str
    temporary: Path

    @property
    def serving(self) -> psutil.Process:
        """The process that serves, which another one has forked."""
        assert self.process.pid is not None
        (serving,) = psutil.Process(self.process.pid).children()
        return serving

    def next_one(self) -> None:
        """Replace it, as the supervisor does."""
        self.process.kill()
        self.process.start()
        self.process.wait_ready()
        assert self.process.ended is None
        assert httpx.get(f"{self.url}/livez").status_code == 200


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gateway")
    temporary = folder / "temporary"
    temporary.mkdir()
    http, grpc = free_ports(2)
    variables = {
        "TMPDIR": str(temporary),
        "NUCLEI_HTTP_PORT": str(http),
        "NUCLEI_GRPC_PORT": str(grpc),
    }
    settings = ServeSettings(repository=SHIPPED, state=folder / "state")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        process = GatewayProcess(settings, GatewaySettings(), "unix:/none")
    process.start()
    try:
        process.wait_ready()
        yield Running(process, f"http://{LOOPBACK}:{http}", temporary)
    finally:
        process.stop(0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_is_killed_or_hangs_is_forked_anew(
    running: Running, number: signal.Signals
) -> None:
    imported, before = running.process.pid, running.serving
    before.send_signal(number)
    if number == signal.SIGKILL:
        wait_for(lambda: running.process.ended == "killed by SIGKILL")
    running.next_one()
    assert running.process.pid == imported
    assert running.serving != before
    assert not living([before])


@pytest.mark.slow
def test_one_that_is_killed_leaves_no_temporary_files(running: Running) -> None:
    running.serving.kill()
    running.process.kill()
    assert not list(running.temporary.iterdir())
    home = running.process.home
    assert {path.name for path in home.rglob("*")} == {"gateway.log", "scratch"}
    running.next_one()


@pytest.mark.slow
def test_it_ends_with_the_process_that_forked_it(running: Running) -> None:
    imported, serving = psutil.Process(running.process.pid), running.serving
    decoders = serving.children()
    imported.kill()
    wait_for(lambda: not living([serving, *decoders]))
    assert running.process.ended == "killed by SIGKILL"
    running.next_one()


@pytest.mark.slow
def test_a_process_that_no_longer_forks_is_replaced_as_well(running: Running) -> None:
    imported, serving = psutil.Process(running.process.pid), running.serving
    imported.suspend()
    running.process.kill()
    assert not living([imported, serving])
    running.next_one()


@pytest.mark.slow
def test_one_that_cannot_run_ends_with_its_exit_code_and_a_sentence(running: Running) -> None:
    running.process.kill()
    port = int(running.url.rpartition(":")[2])
    with socket.create_server((LOOPBACK, port)):
        running.process.start()
        with pytest.raises(EngineFailed, match=r"exit code 8(.|\n)*is the port taken"):
            running.process.wait_ready()
    running.next_one()


@pytest.mark.slow
def test_it_stops_when_told_to(running: Running) -> None:
    """Must be the last one."""
    family = psutil.Process(running.process.pid).children(recursive=True)
    running.process.stop()
    assert running.process.exit_code == 0
    assert not living(family)
    assert "Service instance cleanup finalized" in running.process.last_lines(3)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
