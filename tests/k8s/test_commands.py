"""What the containers run: settings, commands and options, all of which exist."""

import importlib.util
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import click
import pytest
import typer.main
from pydantic_settings import BaseSettings

from nuclei.cli.app import app
from nuclei.errors import InvalidInput, ModelNotFound, TrainingInterrupted, Unauthenticated
from serving.cluster.objects import Object
from serving.gateway.settings import GatewaySettings
from serving.promotion.settings import SyncSettings
from serving.settings import PREFIX, TRITON_ENVIRONMENT, ProbeSettings, read_settings
from tests.k8s.objects import OVERLAYS, of_kind, pods, variables
from tests.prerequisites import missing

# What a process reads; sync and the probe read how the gateways are called, too.
SETTINGS: dict[str, tuple[type[BaseSettings], ...]] = {
    "gateway": (GatewaySettings,),
    "fetch": (SyncSettings,),
    "sync": (SyncSettings, GatewaySettings),
    "probe": (ProbeSettings, GatewaySettings),
}
# Of a pod as a whole: read by another of its containers.
SHARED = {"fetch": SETTINGS["sync"]}

every_overlay = pytest.mark.parametrize("name", OVERLAYS)


def containers(name: str) -> list[tuple[str, Object]]:
    return [(each["name"], each) for pod in pods(name) for each in pod.containers]


@every_overlay
def test_every_variable_is_a_setting_that_can_have_its_value(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for container, described in containers(name):
        given = variables(name, described)
        ours = {each: value for each, value in given.items() if each.startswith(PREFIX)}
        read = SETTINGS.get(container, ())
        fields = {field for each in SHARED.get(container, read) for field in each.model_fields}
        assert {each.removeprefix(PREFIX).lower() for each in ours} <= fields, container
        with monkeypatch.context() as environment:
            for variable, value in ours.items():
                # The processors that a pod may use are known to its node.
                environment.setenv(variable, "2" if variable == "NUCLEI_THREADS" else value)
            for settings in read:
                read_settings(settings)


@every_overlay
def test_every_variable_of_mlflow_is_one_that_it_reads(name: str) -> None:
    from mlflow import environment_variables

    declared = [each for each in vars(environment_variables).values() if hasattr(each, "defined")]
    options = mlflow_commands()["server"].params
    # The class of the declarations is among them, and has no name.
    known = {getattr(each, "name", "") for each in declared} | {each.envvar for each in options}
    for container, described in containers(name):
        given = {each for each in variables(name, described) if each.startswith("MLFLOW_")}
        assert given <= known, container


@every_overlay
def test_every_command_exists(name: str) -> None:
    for container, described in containers(name):
        command = [*described["command"], *described.get("args", ())]
        match command:
            case ["python", "-m", module, *_]:
                assert importlib.util.find_spec(module), container
                assert importlib.util.find_spec(f"{module}.__main__"), container
            case ["nuclei", *words]:
                check(typer.main.get_command(app), words)
            case ["mlflow", *words]:
                check(click.Group("mlflow", mlflow_commands()), words)
            case ["torchrun", *words]:
                start = words.index("nuclei")
                assert words[start - 1] == "--no-python", container
                check(typer.main.get_command(app), words[start + 1 :])
            case ["sh", "-c", script, "tritonserver", *_]:
                assert "exec tritonserver" in script
            case _:
                pytest.fail(f"{container} runs {command}, which no test knows")


@every_overlay
@pytest.mark.triton
def test_every_option_of_triton_exists(name: str) -> None:
    known = triton_options()
    for container, described in containers(name):
        if container == "triton":
            words = [*described["command"][2].split(), *described["args"]]
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= known
            assert "--grpc-restricted-protocol" in options


@pytest.mark.slow
@every_overlay
def test_every_option_of_torchrun_exists(name: str) -> None:
    for _, described in containers(name):
        if described["command"] == ["torchrun"]:
            from torch.distributed.run import get_args_parser

            asked = get_args_parser().parse_args(described["args"])
            assert asked.training_script == "nuclei"
            assert asked.nproc_per_node == "gpu"


@every_overlay
def test_a_training_that_is_started_again_goes_on(name: str) -> None:
    for each in of_kind(name, "CronJob"):
        job = each["spec"]["jobTemplate"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        # The same command begins a training and continues it (tests/nuclei/cli/train).
        assert container["args"][-2:] == ["/data", "--resume=/runs/$(JOB)"]
        rules = job["podFailurePolicy"]["rules"]
        decided = {
            code: rule["action"]
            for rule in rules
            for code in rule.get("onExitCodes", {"values": ()})["values"]
        }
        refused = (InvalidInput, ModelNotFound, Unauthenticated)
        assert decided == {
            **{error.exit_code: "FailJob" for error in refused},
            TrainingInterrupted.exit_code: "Ignore",
        }


def check(command: Any, words: list[str]) -> None:
    """The words name commands of a group, and options of the last."""
    for word in words:
        if isinstance(command, click.Group) or hasattr(command, "commands"):
            assert word in command.commands, word
            command = command.commands[word]
        elif word.startswith("--"):
            options = {name for one in command.params for name in one.opts}
            assert word.partition("=")[0] in options, word


def mlflow_commands() -> Mapping[str, click.Command]:
    import mlflow.cli

    return mlflow.cli.cli.commands


def triton_options() -> set[str]:
    site = TRITON_ENVIRONMENT / "lib" / "python3.11" / "site-packages"
    program = site / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    if not program.exists():
        missing("needs Triton: make env")
    libraries = {"LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs")}
    asked = subprocess.run([program, "--help"], capture_output=True, text=True, env=libraries)
    return set(re.findall(r"--[a-z-]+", asked.stdout + asked.stderr))
