"""What the processor computes itself. Triton's interpreter runs a copy of this file.

A precision that it lacks is emulated: bfloat16 on an Intel processor without it takes 3.3 times as
long as float32.
"""

import contextlib
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# In the folder of a Triton: a file for each of its models.
PRECISIONS = "precisions"
# By any of these: Intel from Cooper Lake and Sapphire Rapids on, AMD from Zen 4 on; 64-bit Arm.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
_LISTS = ("flags", "Features")


def fast_precision(wanted: str, cpuinfo: str) -> str:
    """The precision to compute in.

    Args:
        wanted: `BF16`, or another that every processor has.
        cpuinfo: what Linux says of the processors, in /proc/cpuinfo.

    Returns:
        `wanted`, or `FP32` where the processor would emulate it.
    """
    return "FP32" if wanted == "BF16" and not has_bf16(cpuinfo) else wanted


def has_bf16(cpuinfo: str) -> bool:
    """Whether the processor computes with bfloat16 itself."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in _LISTS:
            return bool(_BF16 & set(flags.split()))
    return False


def read_cpuinfo() -> str:
    """The text of /proc/cpuinfo; empty where it cannot be read."""
    try:
        return CPUINFO.read_text()
    except OSError:
        return ""


def note_precision(folder: Path, model: str, precision: str) -> None:
    """Write down for others in which precision a model computes; a full disk does not matter."""
    if noted_precision(folder, model) == precision:
        return
    with contextlib.suppress(OSError):
        (folder / PRECISIONS).mkdir(exist_ok=True)
        (folder / PRECISIONS / model).write_text(precision)


def noted_precision(folder: Path, model: str) -> str:
    """What `note_precision` wrote; empty when it is unknown."""
    try:
        return (folder / PRECISIONS / model).read_text()
    except OSError:
        return ""
