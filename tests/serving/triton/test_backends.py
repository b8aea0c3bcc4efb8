"""The backends in one folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.settings import TRITON_ENVIRONMENT
from serving.triton.backends import assemble, wheel
from tests.prerequisites import missing


@pytest.mark.triton
def test_an_image_gets_the_backends_without_our_packages(tmp_path: Path) -> None:
    if not wheel(TRITON_ENVIRONMENT).exists():
        missing("needs Triton: make env")
    folder = tmp_path / "backends"
    # -S: what an image is built with has the standard library, and nothing else.
    command = [sys.executable, "-S", "-m", "serving.triton.backends", TRITON_ENVIRONMENT, folder]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
    assert (folder / "python" / "triton_python_backend_stub").stat().st_mode & 0o111
    assert {path.name for path in (folder / "onnxruntime").iterdir()} == {
        "activity.py",
        "model.py",
        "onnx_file.py",
        "processor.py",
    }
    before = {path: path.stat().st_ctime_ns for path in folder.rglob("*.so")}
    assemble(TRITON_ENVIRONMENT, folder)
    assert {path: path.stat().st_ctime_ns for path in folder.rglob("*.so")} == before
