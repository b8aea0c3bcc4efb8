"""Where a service listens; test_targets.py of the monitor reads what is noted."""

import resource
from pathlib import Path

import pytest

from nuclei.addresses import Addresses, note


def test_addresses_that_cannot_be_noted_leave_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            note(tmp_path / "gateway-1", Addresses("a:1", "a:2", "a:3"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "gateway-1").iterdir())
