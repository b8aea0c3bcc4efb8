"""Memory that a load has left behind goes back to the system."""

import asyncio
import ctypes

import psutil

from serving.gateway.admission import Admission

_INTERVAL_S = 5.0
# Less than this is not worth the walk through all free memory.
_GROWTH_BYTES = 64 * 2**20


async def release_memory(admission: Admission) -> None:
    """Give free memory back whenever the process has grown and holds no frame, until cancelled.

    The C library keeps what threads have freed; after large frames that is most of the process.
    """
    process, library = psutil.Process(), ctypes.CDLL(None)
    least = process.memory_info().rss
    while True:
        await asyncio.sleep(_INTERVAL_S)
        resident = process.memory_info().rss
        if admission.idle and resident > least + _GROWTH_BYTES:
            await asyncio.to_thread(library.malloc_trim, 0)
            resident = process.memory_info().rss
            least = resident
        least = min(least, resident)
