"""The check of this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from nuclei.errors import MissingPrerequisite
from serving.triton import machine


def test_this_machine_can_run_triton() -> None:
    machine.check_machine(Path(sys.base_prefix))


def test_it_runs_before_anything_is_installed() -> None:
    command = [sys.executable, "-S", "-m", "serving.triton.machine"]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True, timeout=30)


@pytest.mark.parametrize(
    ("library", "expected"),
    [("glibc 2.31", "glibc 2.31: use Debian 12"), (None, "another C library")],
)
def test_an_old_c_library_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str | None, expected: str
) -> None:
    monkeypatch.setattr("os.confstr", lambda name: library)
    with pytest.raises(MissingPrerequisite, match=expected):
        machine.check_machine(Path(sys.base_prefix))


def test_a_missing_libpython_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "LIBPYTHON", "libpython3.11-of-nobody.so")
    with pytest.raises(MissingPrerequisite, match=r"apt install libpython3\.11"):
        machine.check_machine(tmp_path)
