"""`nuclei serve`, started as a user starts it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from nuclei.addresses import noted
from nuclei.client import Client
from nuclei.inference.contract import CONTRACT_FILE, Contract
from nuclei.inference.routing import Routing
from nuclei.process.ports import LOOPBACK
from serving.repository.export import export_version, set_routing
from tests.serving.leftovers import living, regions
from tests.serving.served import NUCLEI, Served

pytestmark = [pytest.mark.slow, pytest.mark.triton]


@pytest.fixture
def serve(repository: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with ExitStack() as stack:

        def start(**settings: str) -> Served:
            served = Served(repository, tmp_path, **settings)
            stack.callback(served.process.kill)
            return served

        yield start


@pytest.fixture
def misleading_folder(tmp_path: Path) -> Path:
    """The folder that `serve` starts in, with modules of names that our processes import."""
    for name in ("nuclei", "serving"):
        (tmp_path / name).mkdir()
    for name in ("nuclei/__init__", "serving/__init__", "numpy", "onnxruntime", "logging"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} of the current folder')")
    return tmp_path


@pytest.mark.usefixtures("misleading_folder")
def test_serves_from_any_folder_until_it_is_stopped_and_leaves_nothing(
    serve: Callable[..., Served], fluorescence: Path, tmp_path: Path
) -> None:
    served = serve()
    served.wait_ready()
    for word in ("nuclei in fluorescence.png", "ms", "unet version", str(served.http_port)):
        assert word in served.output
    assert httpx.get(f"http://{LOOPBACK}:{served.http_port}/readyz").status_code == 200
    with Client(f"{LOOPBACK}:{served.grpc_port}") as client:
        assert len(client.segment(fluorescence).nuclei.label) > 0
    (addresses,) = noted(tmp_path / ".state").values()
    assert addresses.gateway == f"{LOOPBACK}:{served.http_port}"
    assert addresses.grpc == served.grpc_address
    assert addresses.triton == f"{LOOPBACK}:{served.triton_metrics_port}"
    family = served.family()
    assert len(family) > 5
    served.process.send_signal(signal.SIGINT)
    assert served.finish() == 0, served.output
    assert "Traceback" not in served.output
    assert not living(family)
    assert not regions(served.triton_metrics_port)
    assert not noted(tmp_path / ".state")


def test_only_what_is_documented_listens_and_no_secret_can_be_seen(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    """A proxy of the environment and a misspelt variable do not matter, but the latter is named."""
    token, nowhere = "not-to-be-guessed-by-anyone", "http://127.0.0.1:9"
    served = serve(NUCLEI_TOKEN=token, NUCLEI_TREADS="2", http_proxy=nowhere, https_proxy=nowhere)
    served.wait_ready()
    family = [psutil.Process(served.process.pid), *served.family()]
    assert internet_sockets(family) == {
        (LOOPBACK, served.http_port),
        (LOOPBACK, served.grpc_port),
        (LOOPBACK, served.triton_metrics_port),
    }
    (triton,) = {Path(path) for path in unix_sockets(family)}
    assert triton.parent == tmp_path / ".state" / f"triton-{served.triton_metrics_port}"
    assert triton.parent.stat().st_mode & 0o077 == 0
    for process in family:
        assert token not in " ".join(process.cmdline())
        ours = process in family[:2] or "serving.gateway" in process.cmdline()
        assert ours == (token in process.environ().values()), process
    for number, line in enumerate(("Starting", "gateway works", "Checking", "Ready in")):
        assert line in served.output, number
    assert "did you mean NUCLEI_THREADS?" in served.output
    served.process.terminate()
    assert served.finish() == 0, served.output


def internet_sockets(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    """Addresses at which TCP is listened to or UDP received."""
    return {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
    }


def unix_sockets(processes: list[psutil.Process]) -> set[str]:
    """Paths and abstract names to which a socket is bound."""
    return {
        str(connection.laddr)
        for process in processes
        for connection in process.net_connections("unix")
        if connection.laddr
    }


def test_a_state_folder_that_cannot_be_written_is_named(repository: Path, tmp_path: Path) -> None:
    served = Served(repository, tmp_path, NUCLEI_STATE="/proc/none")
    assert served.finish() == 8
    assert "the state folder /proc/none cannot be used" in served.output
    assert "--state" in served.output
    assert "Traceback" not in served.output


def test_ctrl_c_while_starting_leaves_nothing(serve: Callable[..., Served]) -> None:
    served = serve()
    while not served.family():
        time.sleep(0.02)
    family = served.family()
    served.process.send_signal(signal.SIGINT)
    assert served.finish() == 0, served.output
    assert not living(family)
    assert not regions(served.triton_metrics_port)


def test_a_supervisor_that_is_told_to_end_has_the_time_to(serve: Callable[..., Served]) -> None:
    served = serve(NUCLEI_STOP_S="8")
    served.wait_ready()
    family = served.family()
    served.gateway.suspend()
    served.part("serving.supervision").terminate()
    assert served.finish() == 0, served.output
    assert "no sign of life" not in served.output
    assert not living(family)
    assert not regions(served.triton_metrics_port)


@pytest.mark.parametrize("option", ["http", "grpc"])
def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path, option: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [NUCLEI, "serve", f"--{option}-port", port]
        found = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert found.returncode == 8
    assert f"port {port}" in found.stderr
    assert f"--{option}-port" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / ".state").exists()


def test_an_impossible_setting_is_named(tmp_path: Path) -> None:
    found = subprocess.run(
        [NUCLEI, "serve"],
        cwd=tmp_path,
        env={**os.environ, "NUCLEI_GRPC_PORT": "many"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 2
    assert "NUCLEI_GRPC_PORT" in found.stderr
    assert "Traceback" not in found.stderr


def test_an_empty_repository_is_named(tmp_path: Path) -> None:
    served = Served(tmp_path / "none", tmp_path)
    assert served.finish() == 2
    assert "no models in" in served.output


def test_a_public_address_needs_authentication(repository: Path, tmp_path: Path) -> None:
    served = Served(repository, tmp_path, NUCLEI_HOST="0.0.0.0")
    assert served.finish() == 2
    assert "NUCLEI_TOKEN" in served.output
    assert "Traceback" not in served.output


@pytest.fixture
def other_model(shipped_artifacts: Path, tmp_path: Path) -> Path:
    """A repository whose only model is not called a U-Net."""
    artifacts = shutil.copytree(shipped_artifacts, tmp_path / "artifacts")
    contract = replace(Contract.read(artifacts / CONTRACT_FILE), family="fpn")
    (artifacts / CONTRACT_FILE).write_text(contract.to_json())
    export_version(artifacts, tmp_path / "models", 1)
    set_routing(tmp_path / "models", "fpn", Routing(1))
    return tmp_path / "models"


def test_it_checks_itself_whatever_it_serves_and_asks_of_callers(
    other_model: Path, tmp_path: Path
) -> None:
    served = Served(other_model, tmp_path, NUCLEI_TOKEN="not-to-be-guessed-by-anyone")
    try:
        served.wait_ready()
        # A request that names no model gets the only one.
        assert "fpn version 1" in served.output
        assert httpx.get(f"{served.http_url}/v1/models").status_code == 401
        assert httpx.get(f"{served.http_url}/readyz").status_code == 200
    finally:
        served.process.send_signal(signal.SIGTERM)
        assert served.finish() == 0, served.output


def test_a_default_model_that_is_not_there_is_named(repository: Path, tmp_path: Path) -> None:
    served = Served(repository, tmp_path, NUCLEI_DEFAULT_MODEL="linknet")
    assert served.finish() == 2
    assert "NUCLEI_DEFAULT_MODEL is 'linknet'" in served.output
    assert "expected one of unet" in served.output.replace("\n", " ")
    assert "Traceback" not in served.output


def test_a_model_that_cannot_be_loaded_ends_the_first_start(
    own_repository: Path, tmp_path: Path
) -> None:
    next(own_repository.glob("unet_network.*/*/model.onnx")).write_bytes(b"nothing")
    served = Served(own_repository, tmp_path)
    assert served.finish() == 2, served.output
    assert "Triton cannot load unet" in served.output
    assert "Traceback" not in served.output
    assert not regions(served.triton_metrics_port)
