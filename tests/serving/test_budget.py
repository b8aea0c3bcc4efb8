import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.budget import PixelBudget


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=20), st.integers(1, 10))
def test_no_more_than_the_budget_runs_at_once_and_all_get_their_turn(
    jobs: list[tuple[int, bool]], total: int
) -> None:
    async def run() -> None:
        budget = PixelBudget(total)
        running: list[int] = []
        peak = [0]
        done = []

        async def work(pixels: int) -> None:
            async with budget.spend(pixels):
                running.append(pixels)
                peak.append(sum(running) if len(running) > 1 else 0)
                try:
                    await asyncio.sleep(0)
                finally:
                    running.remove(pixels)
                done.append(pixels)

        tasks = [asyncio.ensure_future(work(pixels)) for pixels, _ in jobs]
        await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, jobs, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert max(peak) <= total
        assert len(done) >= sum(not cancelled for _, cancelled in jobs)
        async with asyncio.timeout(1), budget.spend(total):
            pass

    asyncio.run(run())


async def test_first_come_first_served() -> None:
    budget = PixelBudget(10)
    order = []

    async def work(name: str, pixels: int) -> None:
        async with budget.spend(pixels):
            order.append(name)

    async with budget.spend(6):
        large = asyncio.ensure_future(work("large", 10))
        small = asyncio.ensure_future(work("small", 1))
        await asyncio.sleep(0.01)
        assert order == []
    await asyncio.gather(large, small)
    assert order == ["large", "small"]


async def test_failed_work_gives_its_room_back() -> None:
    budget = PixelBudget(1)
    with pytest.raises(ZeroDivisionError):
        async with budget.spend(1):
            raise ZeroDivisionError
    async with asyncio.timeout(1), budget.spend(1):
        pass
