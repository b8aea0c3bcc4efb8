"""The JavaScript example, with the locked packages, against a real gateway."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.examples.contract import ClientContract, Program
from tests.prerequisites import missing, require_programs

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "javascript"
PROTO = "nuclei/v1/segmentation.proto"
FILES = ("client.js", "package.json", "package-lock.json")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    require_programs("node", "npm", install="apt install nodejs npm")
    # A copy, because packages are installed beside the program.
    root = tmp_path_factory.mktemp("javascript")
    example = root / "examples" / "javascript"
    example.mkdir(parents=True)
    for name in FILES:
        shutil.copy(SOURCE / name, example)
    (root / PROTO).parent.mkdir(parents=True)
    shutil.copy(ROOT / PROTO, root / PROTO)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(install, cwd=example, capture_output=True, text=True)
    if installed.returncode:
        missing(f"npm cannot install the packages: {installed.stderr}")
    return Program(["node", example / "client.js"])


@pytest.mark.slow
class TestJavaScript(ClientContract):
    pass


def test_packages_are_pinned_and_come_from_any_registry() -> None:
    asked = json.loads((SOURCE / "package.json").read_text())["dependencies"]
    locked = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    for name, version in asked.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    for package in locked.values():
        assert "resolved" not in package
