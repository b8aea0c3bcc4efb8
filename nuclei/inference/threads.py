"""Work in threads that ends with its caller."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor
from functools import partial
from typing import TypeVar

from nuclei.inference.deadline import Deadline

Result = TypeVar("Result")


async def in_thread(
    executor: Executor | None, deadline: Deadline, step: Callable[..., Result], *arguments: object
) -> Result:
    """Run a step in a thread.

    Args:
        executor: where it runs; None is the event loop's own threads.
        deadline: when the caller gives up.
        step: what to run. Its last argument is a check, which it is to call at intervals, and
            which raises once the caller has left or its time is over.
        arguments: those before.

    Raises:
        DeadlineExceeded: by the check.
    """
    left = threading.Event()

    def check() -> None:
        if left.is_set():
            raise CancelledError
        deadline.check("while the frame was in work")

    try:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, partial(step, *arguments, check))
    finally:
        left.set()
