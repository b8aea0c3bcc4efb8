"""Objects of CRDs against the schemas of their operators; `make lint` has those of Kubernetes."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.cluster.objects import Object
from tests.k8s.objects import OVERLAYS, overlay
from tests.prerequisites import missing, require_programs

CRDS = Path(__file__).parent / "crds"
INSTALL = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Object]], list[str]]:
    """Says what is wrong with objects of CRDs, a line each."""
    require_programs("node", "npm", install="apt install nodejs npm")
    folder = tmp_path_factory.mktemp("crds")
    for path in CRDS.iterdir():
        shutil.copy(path, folder)
    installed = subprocess.run(INSTALL, cwd=folder, capture_output=True, text=True)
    if installed.returncode:
        missing(f"npm cannot install the schemas: {installed.stderr}")

    def run(items: list[Object]) -> list[str]:
        program = ["node", folder / "check.mjs"]
        return subprocess.run(
            program, input=json.dumps(items), capture_output=True, text=True, check=True
        ).stdout.splitlines()

    return run


@pytest.fixture(scope="module")
def custom() -> list[Object]:
    """What all overlays have of kinds that are not Kubernetes' own."""
    items = [item for name in OVERLAYS for item in overlay(name)]
    return [item for item in items if _is_custom(item["apiVersion"].partition("/")[0])]


def _is_custom(group: str) -> bool:
    return "." in group and not group.endswith(".k8s.io")


def find(items: list[Object], kind: str) -> Object:
    found = next(item for item in items if item["kind"] == kind)
    copied: Object = json.loads(json.dumps(found))
    return copied


def test_what_the_overlays_have_fits(
    check: Callable[[list[Object]], list[str]], custom: list[Object]
) -> None:
    assert {item["kind"] for item in custom} == {"PodMonitor", "PrometheusRule", "ScaledObject"}
    assert check(custom) == []


def test_what_does_not_fit_is_caught(
    check: Callable[[list[Object]], list[str]], custom: list[Object]
) -> None:
    scaled, rule = find(custom, "ScaledObject"), find(custom, "PrometheusRule")
    del scaled["spec"]["triggers"][0]["type"]
    del rule["spec"]["groups"][0]["rules"][0]["expr"]
    unknown = {**scaled, "kind": "ScaledThing"}
    found = check([scaled, rule, unknown])
    assert len(found) == 3
    assert "type" in found[0]
    assert "expr" in found[1]
    assert found[2].endswith("no schema is known")
