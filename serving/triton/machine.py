"""What `tritonserver` needs of this machine; `python -m serving.triton.machine` checks it.

Nothing but the standard library is imported: it runs before anything is installed.
"""

import ctypes
import os
import sys
from pathlib import Path

from nuclei.errors import MissingPrerequisite

LIBPYTHON = "libpython3.11.so.1.0"
MIN_GLIBC = (2, 35)


def check_machine(prefix: Path) -> None:
    """Check the C library and Python's shared library.

    Args:
        prefix: where the Python 3.11 is installed that Triton's backend is to use.

    Raises:
        MissingPrerequisite: one of them is missing or too old.
    """
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        library = ""
    found = library.removeprefix("glibc ").split(".")
    if not library.startswith("glibc") or tuple(map(int, found[:2])) < MIN_GLIBC:
        raise MissingPrerequisite(
            "Triton needs glibc 2.35 or newer and this system has "
            f"{library or 'another C library'}: use Debian 12, Ubuntu 22.04 or newer"
        )
    if not has_own_libpython(prefix) and not _loads(LIBPYTHON):
        raise MissingPrerequisite(
            f"Triton needs {LIBPYTHON}: apt install libpython3.11, "
            "or build Python with --enable-shared"
        )


def has_own_libpython(prefix: Path) -> bool:
    """Whether Python's shared library lies in its own prefix, as with pyenv."""
    return (prefix / "lib" / LIBPYTHON).exists()


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    try:
        check_machine(Path(sys.base_prefix))
    except MissingPrerequisite as error:
        sys.exit(str(error))
