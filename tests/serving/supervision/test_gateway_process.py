"""The gateway's process, without Triton; test_launcher.py starts both."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from nuclei.errors import InvalidOption
from nuclei.process.ports import free_ports
from serving.gateway.settings import GatewaySettings
from serving.settings import ServeSettings
from serving.supervision.gateway_process import GatewayProcess, default_model

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


@pytest.mark.slow
def test_one_that_is_killed_leaves_no_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, state = tmp_path / "temporary", tmp_path / "state"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    http, grpc = free_ports(2)
    monkeypatch.setenv("NUCLEI_HTTP_PORT", str(http))
    monkeypatch.setenv("NUCLEI_GRPC_PORT", str(grpc))
    settings = ServeSettings(repository=SHIPPED, state=state)
    process = GatewayProcess(settings, GatewaySettings(), "unix:/none")
    before = set(psutil.Process().children())
    process.start()
    try:
        process.wait_ready()
        (gateway,) = set(psutil.Process().children()) - before
        os.kill(gateway.pid, signal.SIGKILL)
    finally:
        process.stop(0)
    assert list(temporary.iterdir()) == []
    left = {path.name for path in (state / f"gateway-{http}").rglob("*")}
    assert left == {"gateway.log", "scratch"}
