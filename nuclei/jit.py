"""Loops over pixels, compiled to machine code by numba when their module is imported.

Each kernel declares the types of its arguments, so nothing is compiled while a frame waits. The
code is cached on disk: in NUMBA_CACHE_DIR if that is set, else beside the module or in the user's
cache folder; where none can be written, it is compiled at each start.

A container image brings its code, for processors with all that NUMBA_CPU_FEATURES lists,
beside modules where nobody may write: NUMBA_CACHE_LOCATOR_CLASSES names `Shipped`. On a processor
that lacks one of them it is compiled at the start.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding
import numba
from numba import types
from numba.core.caching import InTreeCacheLocator

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Arrays that are only read: the pixels of a message cannot be written.
UINT8_2D = types.Array(types.uint8, 2, "C", readonly=True)
FLOAT32_2D = types.Array(types.float32, 2, "C", readonly=True)
UINT32_2D = types.Array(types.uint32, 2, "C", readonly=True)


class Shipped(InTreeCacheLocator):
    """The code of a function beside its module, whether or not it may be written there."""

    def ensure_cache_path(self) -> None:
        """Raises FileNotFoundError when there is none, and the next kind of cache is taken."""
        folder = Path(self._cache_path)
        if not any(folder.glob(f"*-{self._lineno}.py*.nbi")):
            raise FileNotFoundError(folder)


def _aim_at_this_processor() -> None:
    """Forget the processor that others compiled for where this one lacks what that one has."""
    config: Any = numba.config
    has = llvmlite.binding.get_host_cpu_features()
    wanted = (config.CPU_FEATURES or "").split(",")
    if any(each.startswith("+") and not has.get(each[1:]) for each in wanted):
        config.CPU_NAME = config.CPU_FEATURES = None
        config.CACHE_LOCATOR_CLASSES = ""


_aim_at_this_processor()


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
