"""How the loops over pixels are compiled: by numba, to machine code, when their module is imported.

Each kernel names the types of its arguments, so nothing is compiled while a frame waits. The code
is kept on disk: beside the module, else in the user's cache folder or in NUMBA_CACHE_DIR; where
none of them can be written it is compiled at each start.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba import types

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Arrays that are only read, so that frames over read-only messages are taken as well.
UINT8_2D = types.Array(types.uint8, 2, "C", readonly=True)
FLOAT32_2D = types.Array(types.float32, 2, "C", readonly=True)
UINT32_2D = types.Array(types.uint32, 2, "C", readonly=True)


def kernel(*signatures: Any) -> Callable[[Kernel], Kernel]:
    """Compile a function for these types of arguments; it runs without holding the GIL."""

    def compiled(function: Kernel) -> Any:
        try:
            return numba.njit(list(signatures), nogil=True, cache=True)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(list(signatures), nogil=True)(function)

    return compiled
