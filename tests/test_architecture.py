"""What may import what, and that importing changes nothing for the program that imports."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("nuclei", "serving", "training", "monitoring")
# What a client may need (zstd is Python's own from 3.14), and what belongs to Triton's interpreter.
ALLOWED = {"numpy", "grpc", "google", "backports", "compression"}
ELSEWHERE = {"triton_python_backend_utils", "onnx_file", "activity", "processor"}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_point_down() -> None:
    run = lint_imports(ROOT)
    assert run.returncode == 0, run.stdout


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


@pytest.mark.parametrize(
    ("module", "imported", "broken"),
    [
        ("nuclei/imaging/tiles.py", "nuclei.inference.pipeline", "Imports point down"),
        ("training/plan.py", "serving.engine", "Imports point down"),
        ("serving/budget.py", "nuclei.cli.main", "Imports point down"),
        ("monitoring/__init__.py", "serving.budget", "Imports point down"),
        ("serving/budget.py", "torch", "Serving and monitoring do without torch"),
        ("nuclei/results/nuclei.py", "scipy", "A client needs"),
        ("training/families/unet.py", "ultralytics", "Only one module knows"),
    ],
)
def test_a_violation_is_caught(copied: Path, module: str, imported: str, broken: str) -> None:
    source = copied / module
    text = source.read_text()
    try:
        source.write_text(f"{text}\n\ndef later() -> None:\n    import {imported}\n")
        run = lint_imports(copied)
    finally:
        source.write_text(text)
    assert run.returncode == 1
    assert any(
        line.startswith(broken) and line.endswith("BROKEN") for line in run.stdout.splitlines()
    ), run.stdout


def test_the_contract_of_the_client_names_all_that_it_may_not_import() -> None:
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    imported = {
        name
        for module in graph.modules
        if module.split(".")[0] in PACKAGES
        for name in graph.find_modules_directly_imported_by(module)
    }
    others = imported - sys.stdlib_module_names - ALLOWED - ELSEWHERE
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (client,) = (c for c in contracts["contracts"] if c["name"].startswith("A client needs"))
    assert {name for name in others if name.split(".")[0] not in PACKAGES} <= set(
        client["forbidden_modules"]
    )


# Run in a separate interpreter: reports each change that a module of ours makes to the process
# while it is imported. Changes by other packages do not count.
WATCHED_IMPORTS = """
import importlib, logging, os, pkgutil, sys, sysconfig, warnings

import cv2
import onnxruntime

package, *ours = sys.argv[1:]
standard = (sysconfig.get_path("stdlib"), "<frozen")

def watch(owner, name):
    original = getattr(owner, name)
    def watched(*arguments, **options):
        frame = sys._getframe(1)
        while frame and frame.f_code.co_filename.startswith(standard):
            if "site-packages" in frame.f_code.co_filename:
                break
            frame = frame.f_back
        if frame and frame.f_code.co_filename.startswith(tuple(ours)):
            print(f"{frame.f_code.co_filename}:{frame.f_lineno} calls {name}")
        return original(*arguments, **options)
    setattr(owner, name, watched)

for name in ("__setitem__", "__delitem__"):
    watch(type(os.environ), name)
for name in ("setLevel", "addHandler"):
    watch(logging.Logger, name)
for name in ("simplefilter", "filterwarnings"):
    watch(warnings, name)
watch(cv2.utils.logging, "setLogLevel")
watch(onnxruntime, "disable_telemetry_events")

path = importlib.import_module(package).__path__
for module in pkgutil.walk_packages(path, f"{package}."):
    # Run by Triton's interpreter, and by that of napari; and programs: the supervisor, the gateway,
    # and BentoML's worker, which has to leave a variable out before it imports the Prometheus
    # client.
    programs = (
        "serving.supervision.__main__", "serving.gateway.__main__", "serving.gateway.service"
    )
    elsewhere = ("serving.triton.backend.", "nuclei.napari.")
    if not module.name.startswith(elsewhere) and module.name not in programs:
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    "package", ["nuclei", "serving", "monitoring", pytest.param("training", marks=pytest.mark.slow)]
)
def test_importing_changes_nothing_for_the_process(package: str, tmp_path: Path) -> None:
    ours = [f"{ROOT / name}{os.sep}" for name in PACKAGES]
    run = subprocess.run(
        [sys.executable, "-c", WATCHED_IMPORTS, package, *ours],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


def test_a_service_imports_what_its_environment_holds() -> None:
    """The environment of the tests holds more."""
    (imports,) = re.findall(r"^SERVING = (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    run = subprocess.run(
        [sys.executable, "-c", f"{imports}\nimport sys\nprint(*sys.modules)"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    lock = (ROOT / "requirements" / "serving.lock").read_text()
    held = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    brings = packages_distributions()
    imported = {name.partition(".")[0] for name in run.stdout.split()} & brings.keys()
    # At each start of Python, where they are installed; and by grpc, where it can.
    optional = {"_distutils_hack", "coverage", "grpc_tools"}
    others = {
        name
        for name in imported - {*PACKAGES, *optional}
        if not held & {canonicalize_name(distribution) for distribution in brings[name]}
    }
    assert {"bentoml", "numba"} <= imported
    assert not others
