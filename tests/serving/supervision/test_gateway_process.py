"""What the gateway's process is started with; test_launcher.py starts it."""

from pathlib import Path

import pytest

from nuclei.errors import InvalidOption
from serving.gateway.settings import GatewaySettings
from serving.supervision.gateway_process import default_model

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
