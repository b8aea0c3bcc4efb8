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

from nuclei.errors import InvalidData, MissingPrerequisite
from serving.ports import LOOPBACK, free_ports
from serving.triton.server import DEFAULT_ENVIRONMENT, TritonServer
from tests.serving.leftovers import living, regions
from tests.serving.onnx_models import scaled, tensors, triton_model

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
        http, grpc, metrics = free_ports(3)
        ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
        return TritonServer(models, tmp_path / "state", **{**ports, **options})

    return make


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def test_serves_all_models_and_leaves_nothing(make_server: MakeServer) -> None:
    before = regions()
    with make_server() as server:
        assert server.is_ready("one")
        assert server.is_ready("two")
        assert not server.is_ready("three")
        processes = family(server.pid or 0)
        assert len(processes) >= 3, "a server and a process for each model"
        assert regions() - before
    assert not server.running
    assert not living(processes)
    assert not regions() - before


def test_serves_only_the_models_asked_for(make_server: MakeServer) -> None:
    with make_server(models=["two"]) as server:
        assert server.is_ready("two")
        assert not server.is_ready("one")


def test_listens_on_loopback_only(make_server: MakeServer) -> None:
    with make_server() as server:
        listening = [
            connection.laddr.ip.removeprefix("::ffff:")
            for connection in psutil.Process(server.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert set(listening) == {LOOPBACK}
    assert len(listening) >= 3


def test_a_killed_server_is_cleaned_up_and_starts_again(make_server: MakeServer) -> None:
    before = regions()
    server = make_server()
    with server:
        processes = family(server.pid or 0)
        os.kill(server.pid or 0, signal.SIGKILL)
        while server.running:
            time.sleep(0.01)
        server.stop()
        assert not living(processes)
        assert not regions() - before
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
        server = make_server(grpc_port=port)
        with pytest.raises(MissingPrerequisite, match=f"{port}.*NUCLEI_TRITON_GRPC_PORT"):
            server.start()
    assert not server.log.exists()


def test_without_its_environment_it_says_how_to_make_it(
    make_server: MakeServer, tmp_path: Path
) -> None:
    with pytest.raises(MissingPrerequisite, match="make env"):
        make_server(environment=tmp_path / "none").start()


def test_an_empty_repository_is_told(models: Path, make_server: MakeServer) -> None:
    shutil.rmtree(models)
    with pytest.raises(InvalidData, match="holds no model"):
        make_server().start()


def test_the_default_environment_is_the_projects() -> None:
    assert Path(__file__).parents[3] / ".venv-triton" == DEFAULT_ENVIRONMENT
