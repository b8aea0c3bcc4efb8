"""Which of several things completes first, and what happens to the others."""

import asyncio

import pytest

from serving.gateway.completion import first_completed


async def test_result_of_the_work_that_completes_first() -> None:
    ending = asyncio.Event()

    async def work() -> str:
        return "done"

    assert await first_completed(work(), (ending.wait(), KeyError("over"))) == "done"


async def test_ending_that_completes_first_raises_and_cancels_the_work() -> None:
    cancelled = asyncio.Event()
    never = asyncio.Event()

    async def work() -> None:
        try:
            await never.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def over() -> None:
        await asyncio.sleep(0.01)

    with pytest.raises(KeyError, match="second"):
        await first_completed(
            work(), (never.wait(), KeyError("first")), (over(), KeyError("second"))
        )
    await asyncio.wait_for(cancelled.wait(), 1)


async def test_errors_of_the_work_are_its_own() -> None:
    async def work() -> None:
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        await first_completed(work(), (asyncio.Event().wait(), KeyError("over")))


async def test_nothing_goes_on_after_a_cancellation() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(
        first_completed(work(), (asyncio.Event().wait(), KeyError("over")))
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 1)
