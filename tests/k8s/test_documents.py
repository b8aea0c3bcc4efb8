"""The commands of kubectl in the documents: kubectl has them, and an overlay what they name."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from serving.cluster.objects import containers, templates
from serving.cluster.rendering import KUSTOMIZATION, render
from serving.cluster.values import Values
from tests.k8s.objects import K8S, OVERLAYS, ROOT, of_kind, overlay, pods

DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
# Up to the end of the command: a comment, another command, the end of code.
COMMAND = re.compile(r"(?<![\w./-])kubectl ((?:[^`#&|)\n(]|\([^)]*\))+)")
COMMANDS = sorted(
    {words.strip() for path in DOCUMENTS for words in COMMAND.findall(path.read_text())}
)
NAMED = re.compile(r"\b(deployment|service|cronjob|secret)[/ ](?!generic |tls )([a-z][\w-]*)")


@cache
def help_of(*command: str) -> str:
    asked = subprocess.run(
        ["kubectl", *command, "--help"], capture_output=True, text=True, check=True
    )
    return asked.stdout


@cache
def global_options() -> str:
    asked = subprocess.run(["kubectl", "options"], capture_output=True, text=True, check=True)
    return asked.stdout


def test_the_documents_name_commands() -> None:
    assert any(words.startswith("apply --server-side") for words in COMMANDS)


@pytest.mark.parametrize("words", COMMANDS)
def test_kubectl_has_the_command_and_its_options(words: str) -> None:
    command: list[str] = []
    # What comes after -- is a command of a container.
    for word in re.sub(r"\$\(.*?\)", "", words).partition(" -- ")[0].split():
        # The help of a group lists its commands, that of a command its options.
        known = help_of(*command)
        if word.startswith("-"):
            option = rf"^ +(?:-\w, )?{re.escape(word.partition('=')[0])}[=,]"
            assert re.search(option, known + global_options(), re.MULTILINE), word
        elif re.search(rf"^  {re.escape(word)} {{2,}}", known, re.MULTILINE):
            command.append(word)
    assert command, f"{words.split()[0]} is no command of kubectl"


@pytest.mark.parametrize("words", [words for words in COMMANDS if NAMED.search(words)])
def test_an_overlay_has_what_a_command_names(words: str) -> None:
    everything = [item for name in OVERLAYS for item in overlay(name)]
    there = {(item["kind"].lower(), item["metadata"]["name"]) for item in everything}
    # Secrets are made by the reader; what names them is in test_policies.
    for kind, name in NAMED.findall(words):
        assert kind == "secret" or (kind, name) in there


def test_an_overlay_of_a_site_changes_what_it_says(tmp_path: Path) -> None:
    documented = (ROOT / "docs" / "kubernetes.md").read_text()
    (shown,) = re.findall(r"```yaml\n(# site/kustomization\.yaml.*?)```", documented, re.DOTALL)
    digest = f"sha256:{'0' * 64}"
    (tmp_path / "site").mkdir()
    (tmp_path / "k8s").symlink_to(K8S)
    (tmp_path / "site" / KUSTOMIZATION).write_text(shown.replace("sha256:...", digest))
    items = render(tmp_path / "site", Values())
    images = {each["image"] for _, template in templates(items) for each in containers(template)}
    assert f"registry.example.org/nuclei-serving@{digest}" in images
    assert not any("/" not in image and "serving" in image for image in images)
    for each in items:
        if each["kind"] == "ServiceAccount":
            assert each["imagePullSecrets"] == [{"name": "registry"}]
        if each["apiVersion"].startswith("monitoring.coreos.com"):
            assert each["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    least = {
        e["metadata"]["name"]: e["spec"]["minReplicaCount"]
        for e in items
        if e["kind"] == "ScaledObject"
    }
    assert least == {"gateway": 2, "triton": 2}


def test_the_pod_that_fills_a_volume_is_restricted_and_finds_it() -> None:
    documented = (ROOT / "docs" / "kubernetes.md").read_text()
    (shown,) = re.findall(r"```yaml\n# fill\.yaml\n(.*?)```", documented, re.DOTALL)
    pod = yaml.safe_load(shown)
    training = next(each for each in pods("production") if each.owner == "CronJob/training")
    common = ("runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile")
    assert pod["spec"]["securityContext"] == {
        each: training.spec["securityContext"][each] for each in common
    }
    (filling,), (trained,) = pod["spec"]["containers"], training.spec["containers"]
    assert filling["securityContext"] == trained["securityContext"]
    assert filling["image"] in {each["image"] for one in pods("cpu") for each in one.containers}
    (volume,) = pod["spec"]["volumes"]
    claims = {each["metadata"]["name"] for each in of_kind("production", "PersistentVolumeClaim")}
    assert volume["persistentVolumeClaim"]["claimName"] in claims
