"""A child process that is asked whether it works."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nuclei.errors import EngineFailed
from serving.supervision.answering_child import AnsweringChild
from serving.supervision.probe import Fault

WAITING = "import time; print('works'); time.sleep(600)"
WORKING = "while True: pass"
HUNG_S = 0.5

Making = Callable[..., AnsweringChild]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Making]:
    made = []

    def child(code: str, answers: Callable[[float], bool | None]) -> AnsweringChild:
        command = (sys.executable, "-c", code)
        log = tmp_path / "child.log"
        made.append(
            AnsweringChild(
                "the child", command, os.environ, log, answers=answers, start_s=1.0, hung_s=HUNG_S
            )
        )
        made[-1].start()
        return made[-1]

    yield child
    for each in made:
        each.stop(0)


def test_it_is_ready_once_it_answers(make: Making) -> None:
    began = time.monotonic()
    child = make(WAITING, lambda timeout_s: time.monotonic() > began + 0.3)
    child.wait_ready()
    assert time.monotonic() >= began + 0.3
    child.check_answers()


def test_one_that_ends_while_it_starts_is_named_with_what_it_wrote(make: Making) -> None:
    child = make("import sys; sys.exit('no such disk')", lambda timeout_s: False)
    with pytest.raises(EngineFailed, match=r"the child ended .*exit code 1(.|\n)*no such disk"):
        child.wait_ready()


def test_one_that_never_answers_did_not_start_and_one_that_falls_silent_is_a_fault(
    make: Making,
) -> None:
    child = make(WAITING, lambda timeout_s: None)
    with pytest.raises(EngineFailed, match="the child was not ready in 1 s"):
        child.wait_ready()
    with pytest.raises(Fault, match=r"no answer from the child in [01] s"):
        child.check_answers()


def test_one_that_is_silent_because_it_is_busy_is_none(make: Making) -> None:
    began = time.monotonic()
    child = make(WORKING, lambda timeout_s: time.monotonic() > began + 4 * HUNG_S or None)
    child.check_answers()
    assert time.monotonic() > began + 4 * HUNG_S


def test_one_that_is_frozen_at_work_is_a_fault(make: Making) -> None:
    child = make(WORKING, lambda timeout_s: None)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(Fault, match=r"no answer from the child in [01] s"):
        child.check_answers()


def test_one_that_is_silent_for_long_is_a_fault_whatever_it_does(make: Making) -> None:
    child = make(WORKING, lambda timeout_s: None)
    with pytest.raises(Fault, match=r"no answer from the child in [5-9] s"):
        child.check_answers()


def test_one_that_says_that_no_work_gets_done_is_a_fault_however_busy(make: Making) -> None:
    child = make(WORKING, lambda timeout_s: False)
    with pytest.raises(Fault, match=r"no work gets done by the child in [01] s"):
        child.check_answers()
