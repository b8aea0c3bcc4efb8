"""The guard, with a real child that something kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

# Runs `sleep`; writes the log of the guard to standard error.
GUARD = """
import os, sys
from serving.logs import write_logs
from serving.process.child import Child
from serving.settings import ProcessSettings, read_settings
from serving.supervision.guard import Guard
write_logs(read_settings(ProcessSettings))
sys.exit(Guard(Child("a child", sys.argv[1:], os.environ, log=None), stop_s=5).run())
"""


@contextmanager
def guarding(*command: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", GUARD, *command],
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
    ) as guard:
        try:
            yield guard
        finally:
            guard.terminate()


def child_of(guard: "subprocess.Popen[str]", not_pid: int = 0) -> psutil.Process:
    while True:
        for child in psutil.Process(guard.pid).children():
            if child.pid != not_pid and child.name() == "sleep":
                return child
        time.sleep(0.02)


def test_a_child_that_is_killed_is_started_again_and_the_log_says_so() -> None:
    with guarding("sleep", "60", NUCLEI_LOG_FORMAT="json") as guard:
        child = child_of(guard)
        child.kill()
        assert guard.stderr is not None
        event = json.loads(guard.stderr.readline())
        del event["time"]
        assert event == {
            "level": "WARNING",
            "logger": "serving.supervision.guard",
            "message": "ended",
            "part": "supervisor",
            "attempt": 1,
            "next_try_s": 0.5,
            "why": "killed by SIGKILL",
        }
        again = child_of(guard, not_pid=child.pid)
        guard.send_signal(signal.SIGTERM)
        assert guard.wait(10) == 0
        assert not again.is_running()


@pytest.mark.parametrize("code", [0, 2])
def test_a_child_that_ends_by_itself_gives_its_exit_code(code: int) -> None:
    with guarding("sh", "-c", f"exit {code}") as guard:
        assert guard.wait(10) == code


def test_a_level_silences_it(tmp_path: Path) -> None:
    with guarding("sleep", "60", NUCLEI_LOG_LEVEL="error") as guard:
        child = child_of(guard)
        child.kill()
        child_of(guard, not_pid=child.pid)
        guard.terminate()
        assert guard.stderr is not None
        assert guard.stderr.read() == ""
