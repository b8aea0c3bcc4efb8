"""The guard, with a real child that something kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

# Runs a command, in which FD is where signs of life go; logs to standard error.
GUARD = """
import os, sys
from serving.logs import write_logs
from nuclei.process.child import Child
from nuclei.process.heartbeat import Heartbeat
from serving.settings import ProcessSettings, read_settings
from serving.supervision.guard import Guard
write_logs(read_settings(ProcessSettings))
heartbeat = Heartbeat()
command = [each.replace("FD", str(heartbeat.descriptor)) for each in sys.argv[1:]]
child = Child("a child", command, os.environ, log=None, descriptors=[heartbeat.descriptor])
sys.exit(Guard(child, heartbeat, stop_s=5).run())
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
            "next_try_s": 0.0,
            "why": "killed by SIGKILL",
        }
        again = child_of(guard, not_pid=child.pid)
        guard.send_signal(signal.SIGTERM)
        assert guard.wait(10) == 0
        assert not again.is_running()


def test_a_restart_that_is_impossible_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    shutil.copy("/bin/sleep", program)
    with guarding(str(program), "60", NUCLEI_LOG_FORMAT="json") as guard:
        child = child_of(guard)
        program.rename(tmp_path / "moved")
        child.kill()
        assert guard.stderr is not None
        events = [json.loads(guard.stderr.readline()) for _ in range(2)]
        assert events[0]["why"] == "killed by SIGKILL"
        assert "cannot be started" in events[1]["why"]
        (tmp_path / "moved").rename(program)
        assert child_of(guard, not_pid=child.pid).is_running()


ALIVE = "while true; do printf . >&FD; sleep 0.1; done"


def test_a_child_that_hangs_is_started_again() -> None:
    with guarding("sh", "-c", ALIVE) as guard:
        (child,) = wait_for_children(guard)
        time.sleep(1)
        child.suspend()
        assert guard.stderr is not None
        assert "part=supervisor" in (line := guard.stderr.readline())
        assert "no sign of life in 5 s" in line
        assert not child.is_running()
        (again,) = wait_for_children(guard)
        assert again.pid != child.pid


def wait_for_children(guard: "subprocess.Popen[str]") -> list[psutil.Process]:
    while not (children := psutil.Process(guard.pid).children()):
        time.sleep(0.02)
    return children


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
