"""The supervisor, with real processes that end, hang or cannot be started."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

# Supervises `sleep`, whose first start fails in the way given by the argument.
SUPERVISOR = """
import os, sys, time
from pathlib import Path
from nuclei.errors import EngineFailed
from serving.logs import write_logs
from nuclei.process.child import Child
from serving.settings import ProcessSettings, read_settings
from serving.supervision.probe import Fault
from serving.supervision.supervisor import Part, Supervisor
write_logs(read_settings(ProcessSettings))
child = Child("a part", ["sleep", "60"], os.environ, Path(sys.argv[2]))
starts = 0
def launch():
    global starts
    starts += 1
    child.start()
def wait_ready():
    if starts == 2 and sys.argv[1] == "fails to start":
        raise EngineFailed("it is broken")
    if starts == 2 and sys.argv[1] == "has a bug":
        raise ValueError("nobody foresaw it")
def check():
    if starts == 1 and sys.argv[1] == "hangs":
        raise Fault("it is silent")
def ended():
    if sys.argv[1] == "has a bug itself":
        raise ValueError("nobody foresaw it")
    return None if child.running else child.ending
beats = 0
def beat():
    global beats
    beats += 1
def kill():
    if sys.argv[1] == "ends slowly":
        before = beats
        time.sleep(2)
        print('{"message": "beats", "why": %d}' % (beats - before), file=sys.stderr, flush=True)
    child.stop(0)
    if sys.argv[1] == "leaves something":
        raise PermissionError("a file of another user")
part = Part("sleep", launch, wait_ready, kill, ended, check, 0.1, lambda: None)
supervisor = Supervisor([part], beat)
supervisor.start(report=lambda name, seconds: None)
if sys.argv[1] != "hangs":
    os.kill(child.pid, 9)
supervisor.run_for_ever()
"""


def events(how: str, count: int, folder: Path) -> list[dict[str, Any]]:
    """The first events that a supervisor logs; times are left out."""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, how, str(folder / "log")],
        env={**os.environ, "NUCLEI_LOG_FORMAT": "json"},
        stderr=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stderr is not None
        lines = [json.loads(supervisor.stderr.readline()) for _ in range(count)]
        if how == "has a bug itself":
            assert supervisor.wait(10) == -signal.SIGKILL
        supervisor.kill()
    kept = ("level", "message", "part", "attempt", "why", "next_try_s")
    return [{key: line[key] for key in kept if key in line} for line in lines]


RESTARTED = {"level": "INFO", "message": "restarted", "part": "sleep"}


def failed(event: str, attempt: int, why: str, next_try_s: float) -> dict[str, Any]:
    return {
        **{"level": "WARNING", "message": event, "part": "sleep"},
        **{"attempt": attempt, "why": why, "next_try_s": next_try_s},
    }


def test_a_part_that_ended_is_started_again(tmp_path: Path) -> None:
    assert events("ends", 2, tmp_path) == [
        failed("ended", 1, "killed by SIGKILL", 0.0),
        {**RESTARTED, "attempt": 1},
    ]


def test_a_part_that_does_not_work_is_started_again(tmp_path: Path) -> None:
    assert events("hangs", 2, tmp_path) == [
        failed("broken", 1, "it is silent", 0.0),
        {**RESTARTED, "attempt": 1},
    ]


def test_it_gives_signs_of_life_while_a_part_takes_long_to_end(tmp_path: Path) -> None:
    ended, beats, restarted = events("ends slowly", 3, tmp_path)
    assert (ended["message"], restarted["message"]) == ("ended", "restarted")
    assert beats["why"] > 10


def test_what_cannot_be_removed_does_not_end_the_supervisor(tmp_path: Path) -> None:
    assert events("leaves something", 3, tmp_path) == [
        failed("ended", 1, "killed by SIGKILL", 0.0),
        {
            **{"level": "ERROR", "message": "remains", "part": "sleep"},
            **{"attempt": 1, "why": "a file of another user"},
        },
        {**RESTARTED, "attempt": 1},
    ]


def test_a_start_that_fails_is_tried_again_later(tmp_path: Path) -> None:
    assert events("fails to start", 3, tmp_path) == [
        failed("ended", 1, "killed by SIGKILL", 0.0),
        failed("start_failed", 2, "it is broken", 0.5),
        {**RESTARTED, "attempt": 2},
    ]


def test_a_part_that_cannot_be_watched_is_started_again(tmp_path: Path) -> None:
    assert events("has a bug", 4, tmp_path) == [
        failed("ended", 1, "killed by SIGKILL", 0.0),
        {"level": "ERROR", "message": "a part cannot be watched"},
        failed("start_failed", 2, "nobody foresaw it", 0.5),
        {**RESTARTED, "attempt": 2},
    ]


def test_an_error_that_nobody_foresaw_kills_it_so_that_the_guard_starts_another(
    tmp_path: Path,
) -> None:
    assert events("has a bug itself", 1, tmp_path) == [
        {"level": "ERROR", "message": "the supervisor cannot go on"}
    ]
