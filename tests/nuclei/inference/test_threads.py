"""Work in threads ends soon after its caller has left, or its time is over."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from nuclei.errors import DeadlineExceeded
from nuclei.inference.deadline import NEVER, Deadline
from nuclei.inference.threads import in_thread


def endless(check: Callable[[], None]) -> None:
    while True:
        check()
        time.sleep(0.001)


async def test_work_ends_when_its_caller_leaves() -> None:
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await in_thread(executor, NEVER, endless)
        # Nothing else runs on the only thread before it is free.
        assert await in_thread(executor, NEVER, lambda check: threading.current_thread().name)


async def test_work_ends_when_its_time_is_over() -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(DeadlineExceeded, match="in work"):
        await in_thread(executor, Deadline.after(0.1), endless)


async def test_gives_what_the_step_gives() -> None:
    assert await in_thread(None, NEVER, lambda first, check: first + 1, 2) == 3
