"""What some tests need besides Python. Without it they are skipped; in CI they fail."""

import os
import shutil
from typing import NoReturn

import pytest

# Set by .ci/run.
IN_CI = bool(os.environ.get("NUCLEI_CI"))


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI."""
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


def require_programs(*names: str, install: str) -> None:
    """Skip the test where a program is not there, or fail it in CI.

    Args:
        names: programs, looked up in PATH.
        install: the command that installs them.
    """
    absent = [name for name in names if shutil.which(name) is None]
    if absent:
        missing(f"needs {', '.join(absent)}: {install}")
