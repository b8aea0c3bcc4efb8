import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nuclei.errors import InvalidImage
from nuclei.imaging.images import read_frame

DAMAGED = Path(__file__).parents[2] / "fuzz" / "corpus" / "decoding"
TIFFFILE = logging.getLogger("tifffile")


def read(path: Path) -> bool:
    try:
        read_frame(path)
    except InvalidImage:
        return False
    return True


def test_damaged_files_leave_nothing_on_stderr(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(4) as executor:
        outcomes = list(executor.map(read, sorted(DAMAGED.iterdir())))
    assert not all(outcomes)
    assert capfd.readouterr().err == ""
    assert caplog.records == []


def test_the_log_of_the_host_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    level = TIFFFILE.level
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(read, sorted(DAMAGED.iterdir())))
    TIFFFILE.warning("of the host")
    assert TIFFFILE.level == level
    assert [record.getMessage() for record in caplog.records] == ["of the host"]
