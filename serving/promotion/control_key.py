"""The key of the control API of a Triton in a pod, where others reach its port, too."""

import secrets
from pathlib import Path

from nuclei.errors import MissingPrerequisite
from nuclei.whole_file import write_whole


def make_control_key(file: Path) -> None:
    """Write a new key, a line, where there is none yet: whole, for Triton starts with it.

    Raises:
        OSError: it cannot be written.
    """
    if not file.exists():
        write_whole(file, f"{secrets.token_hex(32)}\n", 0o600)


def read_control_key(file: Path) -> str:
    """The key.

    Raises:
        MissingPrerequisite: it cannot be read.
    """
    try:
        return file.read_text().strip()
    except OSError as error:
        raise MissingPrerequisite(
            f"the key of Triton's control API cannot be read from {file} ({error.strerror}): name "
            "the file that `python -m serving.promotion prepare` made, as NUCLEI_TRITON_KEY_FILE"
        ) from error
