"""Triton's backends in one folder; `python -m serving.triton.backends VENV FOLDER` makes it.

Nothing but the standard library is imported: an image is built where nothing else is installed.
"""

import filecmp
import os
import shutil
import sys
from pathlib import Path

from nuclei import processor

_OURS = Path(__file__).parent / "backend"
_STUB = "python_backend_stubs/3.11/triton_python_backend_stub"


def packages(environment: Path) -> Path:
    """Where a virtual environment has its packages."""
    return environment / "lib" / "python3.11" / "site-packages"


def wheel(environment: Path) -> Path:
    """The folder of Triton in a virtual environment with its wheel."""
    return packages(environment) / "pytriton" / "tritonserver"


def assemble(environment: Path, folder: Path) -> None:
    """Copy the backends into one folder: Triton refuses links that lead out of it.

    Args:
        environment: virtual environment with the wheel.
        folder: of the backends, made when it is missing; what is there and the same stays.

    Raises:
        OSError: the wheel is missing, or the folder cannot be written.
    """
    python = folder / "python"
    shutil.copytree(
        wheel(environment) / "backends" / "python",
        python,
        copy_function=_copy_changed,
        dirs_exist_ok=True,
    )
    stub = python / Path(_STUB).name
    _copy_changed(wheel(environment) / _STUB, stub)
    stub.chmod(0o755)
    ours = folder / "onnxruntime"
    ours.mkdir(exist_ok=True)
    files = [_OURS / name for name in ("model.py", "onnx_file.py", "activity.py")]
    for file in (*files, Path(processor.__file__)):
        _copy_changed(file, ours / file.name)


def _copy_changed(source: str | Path, target: str | Path) -> None:
    """Copy a file unless the same is there: a restart works on a full disk, too."""
    if not (os.path.exists(target) and filecmp.cmp(source, target)):
        shutil.copy2(source, target)


if __name__ == "__main__":
    assemble(*map(Path, sys.argv[1:]))
