"""Signs of life through a pipe."""

import time

from nuclei.process.heartbeat import Heartbeat, beat


def test_a_child_that_gave_a_sign_is_silent_from_then_on() -> None:
    heartbeat = Heartbeat()
    assert heartbeat.silent_s() == 0
    beat(heartbeat.descriptor)
    assert heartbeat.silent_s() < 0.1
    time.sleep(0.2)
    assert heartbeat.silent_s() >= 0.2
    beat(heartbeat.descriptor)
    assert heartbeat.silent_s() < 0.1


def test_a_new_child_is_not_late_before_its_first_sign() -> None:
    heartbeat = Heartbeat()
    beat(heartbeat.descriptor)
    heartbeat.begin()
    time.sleep(0.1)
    assert heartbeat.silent_s() == 0


def test_a_new_child_that_gives_no_sign_in_time_is_silent() -> None:
    heartbeat = Heartbeat(first_s=0.1)
    heartbeat.begin()
    assert heartbeat.silent_s() == 0
    time.sleep(0.3)
    assert heartbeat.silent_s() >= 0.15


def test_signs_that_nobody_reads_do_not_block() -> None:
    heartbeat = Heartbeat()
    for _ in range(100_000):
        beat(heartbeat.descriptor)
    assert heartbeat.silent_s() < 0.1
