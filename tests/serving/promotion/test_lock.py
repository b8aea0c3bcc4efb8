"""One change at a time: two processes, and one that is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from nuclei.errors import Conflict
from serving.promotion.changes import promote, rollback
from serving.promotion.lock import HOLD_S, locked
from tests.serving.promotion.registries import MODEL, Filled

# Promotes versions in turn, as often as it can in this many seconds; prints what became of each.
PROMOTING = """
import sys, time
from nuclei.errors import Conflict
from serving.promotion.changes import promote
from serving.promotion.state import read_state
from serving.registry import Registry

uri, who, *versions = sys.argv[1:]
registry = Registry(uri)
read_state(registry, "unet")
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + 3
while time.monotonic() < end:
    for version in map(int, versions):
        try:
            print("won" if promote(registry, "unet", version, who=who) else "same", version)
        except Conflict as error:
            print("told", error)
"""
HOLDING = """
import sys, time
from serving.promotion.lock import locked
from serving.registry import Registry

with locked(Registry(sys.argv[1]), "nuclei-unet", "ada@lab"):
    print("held", flush=True)
    time.sleep(600)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    process.stdout.readline()
    return process


def test_of_two_who_promote_at_once_one_wins_and_the_other_is_told(filled: Filled) -> None:
    uri = filled.registry.tracking_uri
    processes = [start(PROMOTING, uri, "ada@lab", "1", "2"), start(PROMOTING, uri, "bo@lab", "3")]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    lines = [line for lines in printed for line in lines]
    won = [line for line in lines if line.startswith("won")]
    told = [line for line in lines if line.startswith("told")]
    assert won
    assert told
    assert all("ada@lab" in line for line in printed[1] if line.startswith("told"))
    assert all("bo@lab" in line for line in printed[0] if line.startswith("told"))
    # No change was made of a state that was not so any more.
    actions = filled.actions()
    assert len(actions) == len(won)
    assert [before for _, before, _ in actions[1:]] == [after for _, _, after in actions[:-1]]
    assert filled.aliases() == {"champion": actions[-1][2]}
    assert filled.registry.names(f"{MODEL}.") == []


def test_a_change_says_who_makes_another_and_goes_on_when_that_one_is_dead(
    filled: Filled, sql: Callable[..., None]
) -> None:
    holder = start(HOLDING, filled.registry.tracking_uri)
    try:
        for change in (lambda: promote(filled.registry, MODEL, 2), lambda: promote_two(filled)):
            with pytest.raises(Conflict, match=r"ada@lab is changing 'nuclei-unet'"):
                change()
        os.kill(holder.pid, signal.SIGKILL)
    finally:
        holder.kill()
        holder.communicate()
    with pytest.raises(Conflict, match="ada@lab"):
        promote(filled.registry, MODEL, 2)
    age(sql)
    assert promote(filled.registry, MODEL, 2)
    assert filled.aliases() == {"champion": 2}
    assert f"{MODEL}.lock" not in filled.registry.names(MODEL)


def test_what_a_process_that_was_killed_while_it_looked_at_the_clock_left_is_removed(
    filled: Filled, sql: Callable[..., None]
) -> None:
    for name in ("killed", "at-work"):
        filled.client.create_registered_model(f"{MODEL}.lock.clock.{name}")
    age(sql, f"{MODEL}.lock.clock.killed")
    with locked(filled.registry, MODEL, "ada@lab"), pytest.raises(Conflict):
        promote(filled.registry, MODEL, 2)
    assert filled.registry.names(f"{MODEL}.lock.") == [f"{MODEL}.lock.clock.at-work"]


def promote_two(filled: Filled) -> None:
    promote(filled.registry, MODEL, 3)


def age(sql: Callable[..., None], name: str = f"{MODEL}.lock") -> None:
    """Let the lock have been taken so long ago that its holder is dead."""
    milliseconds = int(HOLD_S * 1000)
    sql(
        "UPDATE registered_models SET creation_time = creation_time - ? WHERE name = ?",
        *(milliseconds, name),
    )


def test_a_holder_whose_lock_was_broken_releases_nobody_elses(
    filled: Filled, sql: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.promotion.lock.HOLD_S", 0.0)
    with locked(filled.registry, MODEL, "slow@lab") as slow:
        with pytest.raises(Conflict, match="took longer"):
            slow.check()
        monkeypatch.undo()
        age(sql)
        with locked(filled.registry, MODEL, "next@lab"):
            pass
        outer = locked(filled.registry, MODEL, "third@lab")
        outer.__enter__()
    with pytest.raises(Conflict, match="third@lab"):
        promote(filled.registry, MODEL, 2)
    outer.__exit__(None, None, None)
    assert promote(filled.registry, MODEL, 2)


@pytest.mark.parametrize(
    "description", ["", "{", '{"who": 1}', '{"who": "\\u001b[2J", "nonce": "x"}']
)
def test_a_lock_that_says_nothing_of_use_is_one_as_well(
    filled: Filled, sql: Callable[..., None], description: str
) -> None:
    filled.client.create_registered_model(f"{MODEL}.lock", description=description)
    with pytest.raises(Conflict, match="is changing") as raised:
        promote(filled.registry, MODEL, 2)
    assert str(raised.value).isprintable()
    age(sql)
    assert promote(filled.registry, MODEL, 2)
    with pytest.raises(Exception, match="no champion before"):
        rollback(filled.registry, MODEL)
