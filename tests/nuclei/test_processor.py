"""Which precision a processor computes itself, from what Linux says of it."""

import resource
from pathlib import Path

import pytest

from nuclei.processor import fast_precision, has_bf16, note_precision, noted_precision

ICE_LAKE = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f avx512vl avx512_vnni\n"
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n"
ZEN_4 = "model name\t: AMD EPYC 9654\nflags\t\t: avx512f avx512_vnni avx512_bf16\n"
NO_AMX = "vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n"
AMX_ALONE = "flags : amx_bf16\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp\nCPU part\t: 0xd0c\n"
GRAVITON_3 = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"


@pytest.mark.parametrize("cpuinfo", [SAPPHIRE_RAPIDS, ZEN_4, AMX_ALONE, GRAVITON_3])
def test_bf16_where_the_processor_has_it(cpuinfo: str) -> None:
    assert has_bf16(cpuinfo)
    assert fast_precision(cpuinfo) == "BF16"


@pytest.mark.parametrize(
    "cpuinfo", [ICE_LAKE, GRAVITON_2, "", "\n:\n", "model name : bf16 amx_bf16\n", "xflags : bf16"]
)
def test_fp32_where_bf16_would_be_emulated_or_nothing_is_known(cpuinfo: str) -> None:
    assert not has_bf16(cpuinfo)
    assert fast_precision(cpuinfo) == "FP32"


def test_fp32_where_bf16_is_native_and_slower() -> None:
    assert has_bf16(NO_AMX)
    assert fast_precision(NO_AMX) == "FP32"
    assert fast_precision(NO_AMX.replace("avx512_vnni", "amx_bf16")) == "BF16"
    assert fast_precision(NO_AMX.replace("GenuineIntel", "AuthenticAMD")) == "BF16"


def test_a_note_outlasts_a_restart_on_a_full_disk(tmp_path: Path) -> None:
    note_precision(tmp_path, "unet", "bf16")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        note_precision(tmp_path, "unet", "bf16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert noted_precision(tmp_path, "unet") == "bf16"
