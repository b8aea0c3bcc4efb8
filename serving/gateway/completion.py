"""Work that is given up when something else completes first."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
Ending = tuple[Coroutine[Any, Any, Any], BaseException]


async def first_completed(work: Coroutine[Any, Any, Result], *endings: Ending) -> Result:
    """The result of the work, unless one of the endings completes before it.

    What has not completed is cancelled.

    Args:
        work: what is to be done.
        endings: what may complete before it, each with the exception that is raised then.
    """
    working = asyncio.ensure_future(work)
    errors = {asyncio.ensure_future(ending): error for ending, error in endings}
    try:
        await asyncio.wait({working, *errors}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise next(error for ending, error in errors.items() if ending.done())
    finally:
        for each in (working, *errors):
            each.cancel()
