"""How much memory a search takes, where the device counts it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["begin", "peak"]


def begin() -> None:
    """Sets the counters of all CUDA devices to what is held now."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)


def peak(where: Tensor) -> int | None:
    """The most bytes of tensors, weights included, since `begin` on a tensor's device; None where that is no CUDA."""
    return torch.cuda.max_memory_allocated(where.device) if where.is_cuda else None
