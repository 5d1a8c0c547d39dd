"""Half precision where the CPU has no instructions for it: right, and many times slower than float32."""

from __future__ import annotations

import warnings

import torch

__all__ = ["emulated", "warn_if_emulated"]

INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""Of x86 and ARM, by the names of `torch.cpu.get_capabilities`; one of them is enough."""


def emulated(dtype: torch.dtype | None, device: torch.device | str | None) -> bool:
    """Whether networks of this precision would run on a CPU that lacks its instructions.

    False also where torch, before 2.10, does not tell what the CPU has.
    """
    if dtype not in INSTRUCTIONS or device is None or torch.device(device).type != "cpu":
        return False
    told = getattr(torch.cpu, "get_capabilities", None)
    return told is not None and not any(told().get(name) for name in INSTRUCTIONS[dtype])


def warn_if_emulated(dtype: torch.dtype | None, device: torch.device | str | None) -> None:
    """Says, once a place in the code, that this CPU runs the precision without its instructions."""
    if emulated(dtype, device):
        warnings.warn(
            f"this CPU has no instructions for {str(dtype).removeprefix('torch.')}: networks in it are right and many "
            "times slower than in float32 (convolutions 40 to 100 times); take float32",
            stacklevel=3,
        )
