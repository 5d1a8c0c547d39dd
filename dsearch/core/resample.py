"""Resampling schemes: log-weights in, indices out; and the effective sample size.

A scheme is `(log_w [B, N], n, rng, step) -> [B, n]` indices whose expected counts are n times the normalised weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .contract import Rng
from .rng import invert_cdf, move

__all__ = ["Resampler", "ess", "multinomial", "systematic"]

Resampler = Callable[[Tensor, int, Rng, int], Tensor]


def ess(log_w: Tensor) -> Tensor:
    """`[B, N]` log-weights -> `[B]` effective sample size, (sum w)^2 / sum w^2, in [1, N]."""
    w = torch.softmax(log_w.double(), dim=-1)
    return w.sum(dim=-1) ** 2 / (w**2).sum(dim=-1)


def multinomial(log_w: Tensor, n: int, rng: Rng, step: int) -> Tensor:
    """n independent draws a group (Gordon et al. 1993)."""
    return rng.categorical("resample", step, log_w, n)


def systematic(log_w: Tensor, n: int, rng: Rng, step: int) -> Tensor:
    """One uniform a group, n evenly spaced points (Kitagawa 1996): floor or ceil of n w copies, in ascending order."""
    u = move(rng.uniform("resample", step, (log_w.shape[0], 1)), log_w.device)
    points = (torch.arange(n, device=log_w.device, dtype=torch.float64) + u) / n
    return invert_cdf(log_w, points)
