"""Every benchmark that is a command starts: what it imports is there, and its options are shown."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
COMMANDS = [path for path in sorted(FOLDER.glob("*.py")) if '"__main__"' in path.read_text()]


# In this process: each would import torch or BentoML anew.
@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_shows_its_options(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert path.name in capsys.readouterr().out
