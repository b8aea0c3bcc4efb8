"""What the processor computes itself. Triton's interpreter runs a copy of this file.

A precision that it lacks is emulated: bfloat16 on processors without it takes several times as long
as float32 (docs/performance.md).
"""

import contextlib
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# The precision of a configuration that leaves the choice to where the model is loaded.
AUTO = "AUTO"
# In the folder of a Triton: a file for each of its models.
PRECISIONS = "precisions"
# By any of these: Intel from Cooper Lake and Sapphire Rapids on, AMD from Zen 4 on; 64-bit Arm.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
# Of these AVX-512's bfloat16 alone is no faster than float32.
_INTEL = "GenuineIntel"
_LISTS = ("flags", "Features")


def fast_precision(cpuinfo: str) -> str:
    """What `AUTO` stands for: the fastest of the precisions that keep a model's scores.

    As measured (docs/performance.md): on Intel's processors bfloat16 is faster with AMX only.

    Args:
        cpuinfo: what Linux says of the processors, in /proc/cpuinfo.

    Returns:
        `BF16` or `FP32`.
    """
    found = _flags(cpuinfo) & _BF16
    if found == {"avx512_bf16"} and _value(cpuinfo, ("vendor_id",)) == _INTEL:
        return "FP32"
    return "BF16" if found else "FP32"


def has_bf16(cpuinfo: str) -> bool:
    """Whether the processor computes with bfloat16 itself."""
    return bool(_flags(cpuinfo) & _BF16)


def _flags(cpuinfo: str) -> set[str]:
    """What the first processor can do."""
    return set(_value(cpuinfo, _LISTS).split())


def _value(cpuinfo: str, names: tuple[str, ...]) -> str:
    """That of the first line with one of these names; empty where there is none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


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
