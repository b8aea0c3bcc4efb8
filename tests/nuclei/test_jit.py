import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import pytest
from numba import int64

from nuclei.jit import UINT8_2D, kernel


def test_takes_read_only_and_writable_arrays_of_its_type_only() -> None:
    @kernel(int64(UINT8_2D))
    def corner(pixels: np.ndarray) -> int:
        return int(pixels[0, 0])

    read_only = np.frombuffer(b"\x07\x08", np.uint8).reshape(1, 2)
    assert corner(read_only) == corner(read_only.copy()) == 7
    # Any other type would have to be compiled while a frame waits.
    with pytest.raises(TypeError, match="No matching definition"):
        corner(read_only.astype(np.float32))


def test_compiles_where_no_cache_can_be_kept() -> None:
    namespace: dict[str, Any] = {}
    exec("def twice(number):\n    return 2 * number", namespace)  # no file, so no place for a cache
    assert kernel(int64(int64))(namespace["twice"])(4) == 8


LOOPS = """
from numba import int64
from numba.core.registry import cpu_target
from nuclei.jit import kernel


@kernel(int64(int64))
def twice(number):
    return 2 * number


processor = cpu_target.target_context.codegen().magic_tuple()[1]
print(twice(4), sum(twice.stats.cache_hits.values()), processor)
"""


def loops(folder: Path, **variables: str) -> list[str]:
    """What a new process prints: twice 4, how many kernels were not compiled anew, for what."""
    ran = subprocess.run(
        [sys.executable, "-c", "import loops"],
        env={**os.environ, "PYTHONPATH": f"{folder}:{os.getcwd()}", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


@pytest.mark.slow
def test_code_that_was_compiled_ahead_is_used_where_the_processor_can_run_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "loops.py").write_text(LOOPS)
    old = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    shipped = {"NUMBA_CACHE_LOCATOR_CLASSES": "nuclei.jit.Shipped,UserWideCacheLocator"}
    assert loops(tmp_path, **old) == ["8", "0", "x86-64"]
    assert loops(tmp_path, **old, **shipped) == ["8", "1", "x86-64"]
    foreign = {"NUMBA_CPU_NAME": "bdver4", "NUMBA_CPU_FEATURES": "+fma4,+xop"}
    own = llvmlite.binding.get_host_cpu_name()
    assert loops(tmp_path, **foreign, **shipped) == ["8", "0", own]
