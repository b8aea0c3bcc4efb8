import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import pytest

from nuclei.errors import InvalidImage
from nuclei.imaging.images import read_frame

DAMAGED = Path(__file__).parents[2] / "fuzz" / "corpus" / "decoding"
TIFFFILE = logging.getLogger("tifffile")


@pytest.fixture
def levels() -> tuple[int, int]:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
    return cv2.utils.logging.getLogLevel(), TIFFFILE.level


def read(path: Path) -> bool:
    try:
        read_frame(path)
    except InvalidImage:
        return False
    return True


def test_damaged_files_leave_nothing_on_stderr(
    levels: tuple[int, int], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(4) as executor:
        outcomes = list(executor.map(read, sorted(DAMAGED.iterdir())))
    assert not all(outcomes)
    assert capfd.readouterr().err == ""
    assert caplog.records == []


def test_the_levels_of_the_host_are_restored(levels: tuple[int, int]) -> None:
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(read, sorted(DAMAGED.iterdir())))
    assert (cv2.utils.logging.getLogLevel(), TIFFFILE.level) == levels
