"""The Dockerfiles: what they copy is there and let in, nothing is installed that is not locked."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.k8s.objects import K8S, OVERLAYS, ROOT, pods

DOCKERFILES = sorted(K8S.glob("images/*/Dockerfile"))
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

every_image = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)


def instructions(file: Path) -> list[str]:
    """Its instructions, a line each."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


@every_image
def test_what_is_copied_is_there_and_let_in(file: Path) -> None:
    assert "*" in IGNORED, "all else stays outside"
    let_in = {line.removeprefix("!") for line in IGNORED if line.startswith("!")}
    for line in instructions(file):
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
                parents = {str(each) for each in Path(source).parents} | {source}
                assert parents & let_in, source


@every_image
def test_python_packages_are_locked_by_hash(file: Path) -> None:
    for line in instructions(file):
        for options in re.findall(r"pip install ([^&]+)", line):
            assert "--no-deps" in options
            assert "--require-hashes" in options or "--no-build-isolation -e ." in options


@every_image
def test_an_image_has_two_stages_and_runs_as_a_user_without_rights(file: Path) -> None:
    lines = instructions(file)
    assert lines[0] == "ARG BASE=debian:bookworm-slim"
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM ${BASE} AS build",
        "FROM ${BASE}",
    ]
    last = lines[lines.index("FROM ${BASE}") :]
    users = {pod.spec["securityContext"]["runAsUser"] for name in OVERLAYS for pod in pods(name)}
    (user,) = users
    assert f"USER {user}:{user}" in last
    assert not any("pip install" in line for line in last)


@every_image
def test_an_image_says_what_it_is_and_holds(file: Path) -> None:
    (label,) = (line for line in instructions(file) if line.startswith("LABEL"))
    labels = dict(re.findall(r'([\w.]+)="([^"]*)"', label))
    assert labels["org.opencontainers.image.title"] == file.parent.name
    assert labels["org.opencontainers.image.version"] == VERSION
    folder, _, name = labels["org.nuclei.sbom"].rpartition("/")
    assert f"COPY --from=build {folder} {folder}" in instructions(file)
    assert any(f"pip inspect > {name}" in line for line in instructions(file))


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_of_ours_are_of_this_version(name: str) -> None:
    for pod in pods(name):
        for container in pod.containers:
            if container["image"].startswith("nuclei-"):
                assert container["image"].endswith(f":{VERSION}")
