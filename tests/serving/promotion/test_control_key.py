"""The key of Triton's control API, with the command that the pod has."""

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nuclei.errors import EngineFailed, EngineUnavailable, MissingPrerequisite
from nuclei.process.child import Child
from nuclei.process.ports import LOOPBACK, free_ports
from serving.engine import TritonEngine
from serving.promotion.control_key import make_control_key, read_control_key
from serving.settings import TRITON_ENVIRONMENT
from serving.triton.backends import packages, wheel
from serving.triton.control import TritonControl
from tests.k8s.objects import pods
from tests.prerequisites import missing

MESSAGE_BYTES = 2**20
START_S = 60.0


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a Triton without models, started as the overlay `cpu` starts it."""
    if not wheel(TRITON_ENVIRONMENT).exists():
        missing("needs Triton: make env")
    (tmp_path / "synced").mkdir()
    (tmp_path / "backends").mkdir()
    make_control_key(tmp_path / "control.key")
    (described,) = (
        each for pod in pods("cpu") for each in pod.containers if each["name"] == "triton"
    )
    port, metrics_port = free_ports(2)
    command = shlex.join([*described["command"], *described["args"]])
    for before, now in {
        "/models": str(tmp_path),
        "/opt/triton": str(tmp_path),
        "0.0.0.0": LOOPBACK,
        "=8001": f"={port}",
        "=8002": f"={metrics_port}",
    }.items():
        assert before in command
        command = command.replace(before, now)
    variables = {
        "PATH": f"{wheel(TRITON_ENVIRONMENT) / 'bin'}:{os.defpath}",
        "LD_LIBRARY_PATH": str(packages(TRITON_ENVIRONMENT) / "nvidia_pytriton.libs"),
    }
    triton = Child("Triton", shlex.split(command), variables, tmp_path / "triton.log")
    triton.start()
    try:
        deadline = time.monotonic() + START_S
        while not TritonControl(f"{LOOPBACK}:{port}").is_live():
            assert triton.running, triton.last_lines(20)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"{LOOPBACK}:{port}"
    finally:
        triton.stop(5)


@pytest.mark.triton
async def test_models_are_loaded_by_who_has_the_key_and_listed_for_all(
    address: str, tmp_path: Path
) -> None:
    for stranger in (TritonControl(address), TritonControl(address, "another")):
        with pytest.raises(EngineUnavailable, match="NUCLEI_TRITON_KEY_FILE"):
            stranger.load("unet")
        with pytest.raises(EngineUnavailable, match="NUCLEI_TRITON_KEY_FILE"):
            stranger.unload("unet")
    sync = TritonControl(address, read_control_key(tmp_path / "control.key"))
    assert sync.ready() == frozenset()
    with pytest.raises(EngineFailed, match="cannot load 'unet'"):
        sync.load("unet")
    # A gateway has no key, and needs none.
    gateway = TritonEngine([address], 2**18, MESSAGE_BYTES)
    assert [each.graphs for each in await gateway.catalogues()] == [frozenset()]
    await gateway.close()


def test_a_key_stays_as_it_is_and_is_read_by_its_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "control.key"
    with pytest.raises(MissingPrerequisite, match=r"control\.key.*NUCLEI_TRITON_KEY_FILE"):
        read_control_key(file)
    make_control_key(file)
    key = read_control_key(file)
    make_control_key(file)
    assert read_control_key(file) == key
    assert len(key) == 64
    assert file.stat().st_mode & 0o777 == 0o600
