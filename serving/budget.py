"""A budget of pixels in inference at the same time; first come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PixelBudget:
    """Makes work of different sizes wait until there is room; for one event loop."""

    def __init__(self, pixels: int) -> None:
        """Args: pixels: most at once; a larger piece of work runs alone."""
        self._total = self._free = pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def spend(self, pixels: int) -> AsyncIterator[None]:
        """Wait for room for these pixels, and hold it."""
        cost = min(pixels, self._total)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((cost, turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += cost
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            cost, turn = self._waiting[0]
            if not turn.done():
                if cost > self._free:
                    return
                self._free -= cost
                turn.set_result(None)
            self._waiting.popleft()
