"""Loops over pixels, compiled to machine code by numba when their module is imported.

Each kernel declares the types of its arguments, so nothing is compiled while a frame waits. The
code is cached on disk: in NUMBA_CACHE_DIR if that is set, else beside the module or in the user's
cache folder; where none can be written, it is compiled at each start.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import types

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Arrays that are only read: the pixels of a message cannot be written.
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


def inlined(function: Kernel) -> Kernel:
    """Make a function a part of the kernels that call it, as if it were written there."""
    return cast(Kernel, numba.njit(inline="always")(function))
