"""Frame decoding: the kept cases of the fuzzer, and a short run of it."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

from nuclei.errors import InvalidImage
from nuclei.imaging.images import FrameLimits, read_frame
from tests.fuzz.frames import CORPUS, corpus, encoded_frames

SECONDS = 12
TARGETS = ["decoding", "message", "model"]


@pytest.mark.parametrize("path", corpus("decoding"), ids=lambda path: path.name[:12])
def test_kept_cases(path: Path) -> None:
    decodes_or_refuses(path.read_bytes())


@given(data=encoded_frames())
def test_files(data: bytes) -> None:
    decodes_or_refuses(data)


def decodes_or_refuses(data: bytes) -> None:
    try:
        frame = read_frame(data, FrameLimits(max_side_px=4096))
    except InvalidImage:
        return
    assert min(frame.pixels.shape[:2]) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    new_cases = tmp_path / "new"
    new_cases.mkdir()
    command = [
        # A process of its own forks the fuzzer: one that pytest starts begins, for the kernel,
        # with the peak memory of pytest, which libFuzzer would hold against it.
        *("timeout", str(SECONDS * 10)),
        *(sys.executable, str(Path(__file__).with_name(f"{target}.py"))),
        *(f"-max_total_time={SECONDS}", "-timeout=30", "-rss_limit_mb=2048"),
        *(str(new_cases), str(CORPUS / target)),
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
