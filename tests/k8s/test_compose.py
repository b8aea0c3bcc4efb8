"""The compose file of one machine: it runs what the pods of the overlay `cpu` run."""

from typing import Any

import pytest
import yaml

from serving.cluster.objects import Object
from serving.settings import PREFIX, read_settings
from tests.k8s.objects import ROOT, pods
from tests.k8s.test_commands import SETTINGS

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Object] = COMPOSE["services"]

every_service = pytest.mark.parametrize("name", SERVICES)


def in_pods(name: str) -> Object:
    """The container of the same name."""
    return next(each for pod in pods("cpu") for each in pod.containers if each["name"] == name)


@every_service
def test_a_service_runs_the_image_and_the_command_of_its_container(name: str) -> None:
    container = in_pods(name)
    assert SERVICES[name]["image"] == container["image"]
    # Compose takes `$` for a variable of its own unless it is doubled.
    command = [word.replace("$$", "$") for word in SERVICES[name]["command"]]
    assert command == [*container["command"], *container.get("args", ())]


@every_service
def test_a_service_has_no_rights_and_is_reached_from_this_machine_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@every_service
def test_the_variables_of_a_service_are_settings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = SERVICES[name].get("environment", {})
    given = {each: text for each, text in variables.items() if each.startswith(PREFIX)}
    for variable, text in given.items():
        monkeypatch.setenv(variable, text)
    read = SETTINGS.get(name, ())
    fields = {field for settings in read for field in settings.model_fields}
    assert {each.removeprefix(PREFIX).lower() for each in given} <= fields
    for settings in read:
        read_settings(settings)


def test_everything_that_is_built_and_included_is_there() -> None:
    for service in SERVICES.values():
        assert "build" not in service or (ROOT / service["build"]["dockerfile"]).is_file()
    assert all((ROOT / path).is_file() for path in COMPOSE["include"])
    named = {
        mount.partition(":")[0]
        for service in SERVICES.values()
        for mount in service.get("volumes", ())
    }
    assert named == set(COMPOSE["volumes"])
