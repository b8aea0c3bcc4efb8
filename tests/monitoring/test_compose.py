"""The compose file and what Grafana is given: that they fit one another, and the service."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.grafana.dashboards import FOLDER
from monitoring.thresholds import ROOT, read_thresholds
from serving.gateway.settings import GatewaySettings

MONITORING = ROOT / "monitoring"
LOOPBACK = "127.0.0.1"
EXACT = re.compile(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


COMPOSE = read(MONITORING / "compose.yaml")
PROVISIONING = MONITORING / "grafana" / "provisioning"
SOURCES = {
    each["uid"]: each for each in read(PROVISIONING / "datasources" / "nuclei.yaml")["datasources"]
}


def listening(name: str) -> set[str]:
    """The addresses on which a service of the file can be reached, HOST:PORT."""
    service = COMPOSE["services"][name]
    published = {str(port).rpartition(":")[0] for port in service.get("ports", ())}
    options = dict(option.split("=", 1) for option in service.get("command", ()) if "=" in option)
    addresses = {value for key, value in options.items() if key == "--web.listen-address"}
    variables = service.get("environment", {})
    if "GF_SERVER_HTTP_PORT" in variables:
        addresses.add(f"{variables['GF_SERVER_HTTP_ADDR']}:{variables['GF_SERVER_HTTP_PORT']}")
    return published | addresses


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_has_an_exact_version_and_listens_on_loopback_alone(name: str) -> None:
    service = COMPOSE["services"][name]
    assert EXACT.fullmatch(service["image"])
    assert listening(name)
    for address in listening(name):
        host, _, port = address.partition(":")
        assert host == LOOPBACK
        settings = GatewaySettings.model_fields
        assert int(port) not in {settings[each].default for each in ("http_port", "grpc_port")}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_what_is_mounted_is_there(name: str) -> None:
    for mount in COMPOSE["services"][name].get("volumes", ()):
        source = mount.split(":")[0]
        assert (MONITORING / source).exists() if "/" in source else source in COMPOSE["volumes"]


def test_grafana_is_given_the_servers_of_the_file() -> None:
    for uid, name in {
        "prometheus": "prometheus",
        "alertmanager": "alertmanager",
        "traces": "traces",
    }.items():
        assert SOURCES[uid]["url"].removeprefix("http://") in listening(name)
    links = read_thresholds().links
    assert links.grafana.removeprefix("http://") in listening("grafana")
    (targets,) = read(MONITORING / "prometheus" / "targets" / "alertmanager.yaml")
    assert set(targets["targets"]) <= listening("alertmanager")


def test_dots_lead_to_traces_and_rates_cover_four_scrapes() -> None:
    options = SOURCES["prometheus"]["jsonData"]
    assert options["timeInterval"] == read_thresholds().scrape.interval
    (destination,) = options["exemplarTraceIdDestinations"]
    assert destination == {"name": "trace_id", "datasourceUid": "traces"}
    assert SOURCES["traces"]["type"] == "jaeger"


def test_grafana_finds_the_dashboards() -> None:
    (provider,) = read(PROVISIONING / "dashboards" / "nuclei.yaml")["providers"]
    grafana = COMPOSE["services"]["grafana"]
    mounts = dict(mount.split(":")[:2][::-1] for mount in grafana["volumes"])
    assert (MONITORING / mounts[provider["options"]["path"]]).resolve() == FOLDER
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (FOLDER / home.name).exists()
    assert str(home.parent) == provider["options"]["path"]
