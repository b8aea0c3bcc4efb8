"""What a training runs on: the device, and the precision that it computes in natively."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from nuclei import processor
from nuclei.errors import InvalidOption, MissingPrerequisite

DEVICES = ("cpu", "cuda")
AUTO, BF16, FP32 = "auto", "bf16", "fp32"
PRECISIONS = (AUTO, BF16, FP32)


def check_device(device: str) -> None:
    """Raises InvalidOption for an unknown device, MissingPrerequisite for a GPU that is missing."""
    _check("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        reason = "torch finds no GPU" if torch.version.cuda else "torch is built without CUDA"
        raise MissingPrerequisite(
            f"device cuda was asked for, and {reason}; give --device cpu, or leave it out"
        )


def check_precision(precision: str) -> None:
    """Raises InvalidOption for an unknown precision."""
    _check("precision", precision, PRECISIONS)


def chosen_precision(device: str, precision: str) -> str:
    """`bf16` or `fp32`; `auto` is bf16 where the device has it.

    Where it is emulated, bf16 is slower than fp32 (docs/training.md#precision).
    """
    if precision != AUTO:
        return precision
    return BF16 if has_bf16(device) else FP32


@cache
def has_bf16(device: str) -> bool:
    """Whether the device computes bf16 itself: AVX-512 BF16, AMX, Arm's; NVIDIA's since Ampere."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return processor.has_bf16(processor.read_cpuinfo())


def described_precision(device: str, precision: str) -> str:
    """A sentence on what is computed in, and why."""
    chosen = chosen_precision(device, precision)
    machine = "GPU" if device == "cuda" else "CPU"
    if chosen == BF16 and not has_bf16(device):
        return (
            f"precision bf16, which this {machine} has to emulate: measured 2.6 times slower than "
            "fp32 (docs/training.md#precision); --precision auto takes the faster one"
        )
    if precision == AUTO:
        return f"precision {chosen}: this {machine} computes {'' if chosen == BF16 else 'no '}bf16"
    return f"precision {chosen}"


def mixed_precision(device: str, precision: str) -> AbstractContextManager[Any]:
    """The context that a network runs in, of a precision or of `auto`."""
    if chosen_precision(device, precision) == BF16:
        return torch.autocast(device, torch.bfloat16)
    return nullcontext()


def _check(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidOption(f"{option} {value!r} is unknown; expected {', '.join(known)}")
