"""Memory that a load has left behind."""

import asyncio
import ctypes
from contextlib import suppress

import psutil
import pytest

from serving.gateway.admission import Admission
from serving.gateway.memory import release_memory

MIB = 2**20


@pytest.mark.slow
async def test_freed_memory_goes_back_to_the_system() -> None:
    process = psutil.Process()
    # Else what other tests have freed is taken first, and the process does not grow.
    ctypes.CDLL(None).malloc_trim(0)
    releasing = asyncio.create_task(release_memory(Admission(1, MIB, 1)))
    await asyncio.sleep(0)
    # Too small to be mapped one by one; the last keeps the heap from shrinking.
    pieces = [bytes(100_000) for _ in range(2_000)]
    last = bytes(100_000)
    full = process.memory_info().rss
    pieces.clear()
    assert full - process.memory_info().rss < 50 * MIB
    await asyncio.sleep(6)
    assert full - process.memory_info().rss > 100 * MIB
    assert last
    releasing.cancel()
    with suppress(asyncio.CancelledError):
        await releasing
