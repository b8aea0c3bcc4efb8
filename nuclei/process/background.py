"""Work in the background of a process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_background(work: Callable[[], Result], name: str) -> "Future[Result]":
    """Start work in a thread of its own, for which the end of this process does not wait.

    Args:
        work: what to do.
        name: of the thread.

    Returns:
        What it will return or raise.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name=name).start()
    return future
