import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from monitoring.monitor.targets import Targets, named_targets, running_service
from nuclei.addresses import NAME, Addresses, Tls, forget, note, noted
from nuclei.errors import InvalidOption, MissingPrerequisite
from nuclei.process.ports import LOOPBACK, free_ports

JOBS = ("gateway", "triton", "sync", "probe", "mlflow", "node")


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server((LOOPBACK, 0)) as server:
        yield f"{LOOPBACK}:{server.getsockname()[1]}"


def closed() -> str:
    return f"{LOOPBACK}:{free_ports(1)[0]}"


def test_finds_the_service_that_runs(tmp_path: Path, listening: str) -> None:
    note(tmp_path / "gateway-1", Addresses(closed(), "h:1", "h:2"))
    running = Addresses(listening, f"{LOOPBACK}:50051", f"{LOOPBACK}:8002", f"{LOOPBACK}:8003")
    note(tmp_path / "gateway-2", running)
    (tmp_path / "gateway-3").mkdir()
    (tmp_path / "gateway-3" / NAME).write_text("no JSON")
    found = running_service(tmp_path)
    assert found.addresses["gateway"] == (listening,)
    assert found.addresses["triton"] == (f"{LOOPBACK}:8002",)
    assert found.addresses["sync"] == (f"{LOOPBACK}:8003",)
    assert found.grpc == f"{LOOPBACK}:50051"


def test_calls_grpc_by_a_name_of_the_certificate(tmp_path: Path, listening: str) -> None:
    tls = Tls(Path("/c.pem"), "nuclei.example.org")
    note(tmp_path / "gateway-2", Addresses(listening, f"{LOOPBACK}:50051", "h:1", tls=tls))
    assert next(iter(noted(tmp_path).values())).tls == tls
    assert running_service(tmp_path).grpc == "nuclei.example.org:50051"


def test_says_how_to_start_the_service_when_none_runs(tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite, match=r"no service runs .* `make serve`"):
        running_service(tmp_path)
    silent = closed()
    note(tmp_path / "gateway-1", Addresses(silent, "h:1", "h:2"))
    with pytest.raises(MissingPrerequisite, match=f"does not listen on {silent} any more"):
        running_service(tmp_path)
    forget(tmp_path / "gateway-1")
    with pytest.raises(MissingPrerequisite, match="no service runs"):
        running_service(tmp_path)


def test_targets_are_written_as_prometheus_reads_them(tmp_path: Path) -> None:
    given = ["gateway=10.0.0.5:3000", "gateway=host-b:3000", "triton=[::1]:8002"]
    named_targets(given, JOBS).write(tmp_path, JOBS)
    read = {file.stem: yaml.safe_load(file.read_text()) for file in tmp_path.iterdir()}
    assert read["gateway"] == [{"targets": ["10.0.0.5:3000", "host-b:3000"]}]
    assert read["triton"] == [{"targets": ["[::1]:8002"]}]
    assert read["sync"] == []
    assert Targets({}).grpc is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10.0.0.5:3000", "expected JOB=HOST:PORT"),
        ("gateway=10.0.0.5", "expected JOB=HOST:PORT"),
        ("gateway=10.0.0.5:99999", "expected JOB=HOST:PORT"),
        ("gateway=http://a:1", "expected JOB=HOST:PORT"),
        ('gateway=a"b:1', "expected JOB=HOST:PORT"),
        ("gatewy=a:1", "expected one of gateway"),
    ],
)
def test_refuses_what_is_no_target(given: str, expected: str) -> None:
    with pytest.raises(InvalidOption, match=expected):
        named_targets([given], JOBS)
