"""How far a run is, where nobody looks at a terminal."""

import io
import re
import time

import pytest
from rich.console import Console

from nuclei import console
from nuclei.cli import progress


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with progress.Progress(4, Console(file=log, width=200)) as shown:
        shown.advance()
        assert log.getvalue() == ""
        monkeypatch.setattr(console, "LINE_S", 0.0)
        shown.advance(failed=1)
    assert re.fullmatch(
        r"2 of 4 done, 1 failed, [\d.e+]+ per second, ends (\w+ \d+ \w+ )?\d\d:\d\d\n",
        log.getvalue(),
    )


def test_a_terminal_gets_a_bar_that_goes() -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, color_system=None)
    with progress.Progress(2, terminal) as shown:
        shown.advance()
        time.sleep(0.3)  # drawn ten times a second
        assert re.search(r"1/2 ends .*\d\d:\d\d", screen.getvalue())
