from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nuclei import processor
from nuclei.errors import InvalidOption, MissingPrerequisite
from training.hardware import (
    check_device,
    chosen_precision,
    described_precision,
    has_bf16,
    mixed_precision,
)


@pytest.fixture
def cpu_has_bf16(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[bool]:
    """A processor with bf16 or without."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t: avx512_vnni {'avx512_bf16' if request.param else ''}\n")
    monkeypatch.setattr(processor, "CPUINFO", cpuinfo)
    has_bf16.cache_clear()
    yield request.param
    has_bf16.cache_clear()


def dtype_in(precision: str) -> torch.dtype:
    layer = torch.nn.Linear(2, 2)
    with mixed_precision("cpu", precision):
        return layer(torch.ones(1, 2)).dtype


@pytest.mark.parametrize("cpu_has_bf16", [True, False], indirect=True)
def test_auto_is_what_the_processor_computes_natively(cpu_has_bf16: bool) -> None:
    assert chosen_precision("cpu", "auto") == ("bf16" if cpu_has_bf16 else "fp32")
    assert dtype_in("auto") == (torch.bfloat16 if cpu_has_bf16 else torch.float32)
    said = described_precision("cpu", "auto")
    assert said.endswith("computes bf16" if cpu_has_bf16 else "computes no bf16")


@pytest.mark.parametrize("cpu_has_bf16", [True, False], indirect=True)
def test_what_was_asked_for_is_taken_and_said(cpu_has_bf16: bool) -> None:
    assert dtype_in("fp32") == torch.float32
    assert dtype_in("bf16") == torch.bfloat16
    assert ("emulate" in described_precision("cpu", "bf16")) != cpu_has_bf16
    assert described_precision("cpu", "fp32") == "precision fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_missing_is_said() -> None:
    with pytest.raises(MissingPrerequisite, match=r"torch .*; give --device cpu"):
        check_device("cuda")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InvalidOption, match="'gpu' is unknown; expected cpu, cuda"):
        check_device("gpu")
