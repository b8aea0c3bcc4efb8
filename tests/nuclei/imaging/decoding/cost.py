"""What a call costs: processor time and memory, measured in a child process."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nuclei.errors import NucleiError


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        memory_bytes: at the peak, beyond what the process had before.
    """

    cpu_s: float
    memory_bytes: int


# What else a machine does only adds to the cost.
TRIES = 3


def cost_of(use: Callable[[bytes], Any], data: bytes) -> Cost:
    """The cost of `use(data)`, which may refuse by an error of ours: the least of a few calls."""
    before, after = _least(lambda _: None, data), _least(use, data)
    return Cost(after.cpu_s - before.cpu_s, after.memory_bytes - before.memory_bytes)


def _least(use: Callable[[bytes], Any], data: bytes) -> Cost:
    costs = [_child(use, data) for _ in range(TRIES)]
    return Cost(min(one.cpu_s for one in costs), min(one.memory_bytes for one in costs))


def _child(use: Callable[[bytes], Any], data: bytes) -> Cost:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            use(data)
            status = 0
        except NucleiError:
            status = 0
        finally:
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
