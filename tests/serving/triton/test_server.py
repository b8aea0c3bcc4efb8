"""The process of Triton."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from onnx import TensorProto

from nuclei.errors import InvalidData, InvalidOption, MissingPrerequisite
from nuclei.process.ports import LOOPBACK, free_ports
from serving.settings import TRITON_ENVIRONMENT
from serving.triton.server import TritonServer
from tests.serving.leftovers import living, regions
from tests.serving.onnx_models import scaled, tensors, triton_model

pytestmark = pytest.mark.triton

MakeServer = Callable[..., TritonServer]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    triton_model(folder, "one", scaled(), tensors())
    triton_model(folder, "two", scaled(), tensors())
    return folder


@pytest.fixture
def make_server(models: Path, tmp_path: Path) -> MakeServer:
    def make(**options: object) -> TritonServer:
        (metrics_port,) = free_ports(1)
        return TritonServer(models, tmp_path / "state", **{"metrics_port": metrics_port, **options})

    return make


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def port_of(server: TritonServer) -> int:
    return int(server.log.parent.name.removeprefix("triton-"))


def test_serves_all_models_and_leaves_nothing(make_server: MakeServer) -> None:
    with make_server() as server:
        assert server.is_ready("one")
        assert server.is_ready("two")
        assert not server.is_ready("three")
        processes = family(server.pid or 0)
        assert len(processes) >= 3, "a server and a process for each model"
        assert regions(port_of(server))
    assert not server.running
    assert not living(processes)
    assert not regions(port_of(server))


def test_serves_only_the_models_asked_for(make_server: MakeServer) -> None:
    with make_server(models=["two"]) as server:
        assert server.is_ready("two")
        assert not server.is_ready("one")


def test_only_its_metrics_have_a_port(make_server: MakeServer) -> None:
    with make_server() as server:
        listening = {
            (connection.laddr.ip, connection.laddr.port)
            for process in family(server.pid or 0)
            for connection in process.net_connections("inet")
            if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
        }
        assert listening == {(LOOPBACK, port_of(server))}


def test_no_other_user_can_call_it_or_read_its_memory(make_server: MakeServer) -> None:
    with make_server() as server:
        assert server.log.parent.stat().st_mode & 0o077 == 0
        for region in regions(port_of(server)):
            assert (Path("/dev/shm") / region).stat().st_mode & 0o077 == 0
        for process in family(server.pid or 0):
            assert not [name for name in process.environ() if name == "NUCLEI_TOKEN"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_others_put_among_its_memory_is_left_alone(
    make_server: MakeServer, tmp_path: Path
) -> None:
    server = make_server()
    prefix = Path("/dev/shm") / f"nuclei_{port_of(server)}_"
    ours, theirs, link = (prefix.with_name(prefix.name + end) for end in ("a", "b", "c"))
    try:
        ours.touch()
        theirs.touch()
        os.chown(theirs, 65534, 65534)
        link.symlink_to(tmp_path / "elsewhere")
        server.stop()
        assert not ours.exists()
        assert theirs.exists()
        assert link.is_symlink()
    finally:
        for path in (ours, theirs, link):
            path.unlink(missing_ok=True)


def test_a_killed_server_is_cleaned_up_and_starts_again(make_server: MakeServer) -> None:
    server = make_server()
    with server:
        processes = family(server.pid or 0)
        os.kill(server.pid or 0, signal.SIGKILL)
        while server.running:
            time.sleep(0.01)
        server.stop()
        assert not living(processes)
        assert not regions(port_of(server))
        server.start()
        assert server.is_ready("one")


def test_a_broken_model_is_named_and_nothing_stays(models: Path, make_server: MakeServer) -> None:
    triton_model(models, "broken", scaled(kind=TensorProto.DOUBLE), tensors())
    server = make_server()
    with pytest.raises(InvalidData) as raised, server:
        pass
    message = str(raised.value)
    assert "broken" in message
    assert "input 'X' is TYPE_FP32; the ONNX file has TYPE_FP64" in message
    assert str(models) not in message
    assert not server.running


def test_a_model_that_is_not_there_is_named(make_server: MakeServer) -> None:
    with pytest.raises(InvalidData, match="nosuch"), make_server(models=["nosuch"]):
        pass


def test_a_taken_port_is_named_before_anything_starts(make_server: MakeServer) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        server = make_server(metrics_port=port)
        with pytest.raises(MissingPrerequisite, match=f"{port}.*NUCLEI_TRITON_METRICS_PORT"):
            server.start()
    assert not server.log.exists()


def test_without_its_environment_it_says_how_to_make_it(
    make_server: MakeServer, tmp_path: Path
) -> None:
    with pytest.raises(MissingPrerequisite, match="make env"):
        make_server(environment=tmp_path / "none").start()


def test_an_empty_repository_is_named(models: Path, make_server: MakeServer) -> None:
    shutil.rmtree(models)
    with pytest.raises(InvalidData, match="no models in"):
        make_server().start()


def test_the_default_environment_is_the_projects() -> None:
    assert Path(__file__).parents[3] / ".venv-triton" == TRITON_ENVIRONMENT


def test_a_state_folder_that_is_too_long_for_a_socket_is_named(
    models: Path, tmp_path: Path
) -> None:
    server = TritonServer(models, tmp_path / ("x" * 100), metrics_port=free_ports(1)[0])
    with pytest.raises(InvalidOption, match=r"bytes too long for a socket.*--state"):
        server.start()


def test_what_a_killed_server_left_is_gone_at_the_next_start(make_server: MakeServer) -> None:
    with make_server(models=["one"]) as server:
        left = Path("/dev/shm") / f"nuclei_{port_of(server)}_left"
        another = Path("/dev/shm") / f"nuclei_{port_of(server)}0_another"
        server.stop(0)
        for region in (left, another):
            region.write_bytes(b"x")
        try:
            server.start()
            assert not left.exists()
            assert another.exists()
        finally:
            another.unlink()
