"""`nuclei probe` against real gateways that are right, wrong, gone or silent."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner, Result

from nuclei.cli.app import app
from nuclei.errors import (
    EngineFailed,
    EngineUnavailable,
    InvalidOption,
    MissingPrerequisite,
    ModelNotFound,
)
from nuclei.process.ports import LOOPBACK, free_ports
from serving.triton.server import TritonServer

NUCLEI = str(Path(sys.executable).with_name("nuclei"))
START_S = 30.0


def probe(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["probe", *map(str, arguments)], env={"COLUMNS": "200"})


class Running:
    """A running `nuclei probe`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self._url = f"http://{LOOPBACK}:{port}/metrics"

    def values(self) -> dict[str, float]:
        """Its own values, those with a code as `nuclei_probe_frames_total OK`."""
        try:
            text = httpx.get(self._url).text
        except httpx.TransportError:
            return {}
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("nuclei_probe") and "le" not in sample.labels
        }

    def wait(self, name: str, value: float) -> dict[str, float]:
        """All values, once one is so large."""
        deadline = time.monotonic() + START_S
        while (values := self.values()).get(name, 0) < value:
            assert self.process.poll() is None
            assert time.monotonic() < deadline, values
            time.sleep(0.1)
        return values

    def stop(self, sent: signal.Signals) -> tuple[int, float]:
        """Its exit code, and how long it took to end."""
        started = time.monotonic()
        self.process.send_signal(sent)
        return self.process.wait(START_S), time.monotonic() - started


@contextmanager
def running(address: str, folder: Path) -> Iterator[Running]:
    """A probe that sends a frame every second."""
    (port,) = free_ports(1)
    environment = {**os.environ, "NUCLEI_PROBE_PORT": str(port)}
    with (folder / "probe.log").open("wb") as log:
        process = subprocess.Popen(
            [NUCLEI, "probe", "--every", "1", "--address", address],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Running(process, port)
    finally:
        process.kill()
        process.wait()


def test_a_right_answer_is_a_success(gateway: Any, version: str) -> None:
    answered = probe("--once", "--address", gateway.grpc_address)
    assert answered.exit_code == 0, answered.output
    assert f"12 nuclei by unet {version} in 0." in answered.stdout


def test_a_wrong_answer_is_none(gateway: Any, histology: Path) -> None:
    wrong = probe(
        *("--once", "--address", gateway.grpc_address),
        *("--frame", histology, "--nuclei", "100000-200000"),
    )
    assert isinstance(wrong.exception, EngineFailed)
    assert "expected 100000 to 200000" in str(wrong.exception)


def test_what_the_gateway_says_is_said(gateway: Any) -> None:
    missing = probe("--once", "--address", gateway.grpc_address, "--model", "missing")
    assert isinstance(missing.exception, ModelNotFound)
    (port,) = free_ports(1)
    gone = probe("--once", "--address", f"{LOOPBACK}:{port}")
    assert isinstance(gone.exception, EngineUnavailable)


@pytest.mark.parametrize(
    "options",
    [
        ["--nuclei", "12"],
        ["--frame", "examples/histology.png"],
        ["--frame", "examples/histology.png", "--nuclei", "many"],
        ["--frame", "examples/histology.png", "--nuclei", "20-10"],
        ["--address", "http://localhost:50051"],
        ["--tls-ca", "no-such-file.pem"],
        ["--token", "line\nend"],
        ["--model", "a/b"],
    ],
    ids=" ".join,
)
def test_what_is_impossible_is_refused_before_anything_is_sent(options: list[str]) -> None:
    assert isinstance(probe(*options).exception, InvalidOption)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        refused = probe("--port", port)
    assert isinstance(refused.exception, MissingPrerequisite)
    assert f"port {port}" in str(refused.exception)


def test_metrics_show_when_the_gateway_goes(
    triton: TritonServer, start_gateway: Callable[..., Any], tmp_path: Path
) -> None:
    gateway = start_gateway(triton.address)
    gateway.wait_ready()
    with running(gateway.grpc_address, tmp_path) as probing:
        up = probing.wait("nuclei_probe_frames_total OK", 2)
        assert up["nuclei_probe_up"] == 1
        assert 0 < up["nuclei_probe_seconds_sum"] / up["nuclei_probe_seconds_count"] < 10
        assert abs(up["nuclei_probe_last_success_timestamp_seconds"] - time.time()) < 10
        gateway.process.stop(START_S)
        gone = probing.wait("nuclei_probe_frames_total UNAVAILABLE", 1)
        assert gone["nuclei_probe_up"] == 0
        last = gone["nuclei_probe_last_success_timestamp_seconds"]
        assert 0 < time.time() - last < START_S
        code, seconds = probing.stop(signal.SIGTERM)
    assert (code, seconds < 3) == (0, True)
    log = (tmp_path / "probe.log").read_text()
    assert "probe failed: EngineUnavailable" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_while_a_gateway_is_silent(tmp_path: Path, sent: signal.Signals) -> None:
    with (
        socket.create_server((LOOPBACK, 0)) as silent,
        running(f"{LOOPBACK}:{silent.getsockname()[1]}", tmp_path) as probing,
    ):
        silent.settimeout(START_S)
        connection, _ = silent.accept()
        with connection:
            assert probing.values()["nuclei_probe_up"] == 0
            code, seconds = probing.stop(sent)
    assert (code, seconds < 3) == (0, True)
    assert "Traceback" not in (tmp_path / "probe.log").read_text()


NEVER_IN_TIME = """
import sys
import grpc
from nuclei.probe import Probe, keep_probing, synthetic_frame

probe = Probe(lambda: grpc.insecure_channel("127.0.0.1:1"), "", synthetic_frame(), "")
keep_probing(probe, 1e-9, "127.0.0.1", int(sys.argv[1]))
"""


def test_an_answer_that_takes_longer_than_the_interval_only_delays_the_next_frame() -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-c", NEVER_IN_TIME, str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            Running(process, port).wait("nuclei_probe_frames_total UNAVAILABLE", 3)
        finally:
            process.kill()
