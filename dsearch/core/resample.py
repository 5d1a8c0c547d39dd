"""Resampling schemes: log-weights in, indices out; and the effective sample size.

A scheme is `(log_w [B, N], n, rng, level) -> [B, n]` indices whose expected counts are n times the normalised weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .contract import Rng
from .rng import invert_cdf, move, shares

__all__ = ["SCHEMES", "Resampler", "ess", "multinomial", "residual", "stratified", "systematic"]

Resampler = Callable[[Tensor, int, Rng, int], Tensor]
"""`(log_w [B, N], n, rng, level) -> [B, n]` indices, drawn with replacement."""


def ess(log_w: Tensor) -> Tensor:
    """`[B, N]` log-weights -> `[B]` effective sample size, (sum w)^2 / sum w^2, in [1, N]; N where all are zero."""
    w = shares(log_w)
    return w.sum(dim=-1) ** 2 / (w**2).sum(dim=-1)


def multinomial(log_w: Tensor, n: int, rng: Rng, level: int) -> Tensor:
    """n independent draws per group (Gordon et al. 1993)."""
    return rng.categorical("resample", level, log_w, n)


def stratified(log_w: Tensor, n: int, rng: Rng, level: int) -> Tensor:
    """One uniform in each of n equal strata (Kitagawa 1996): independent, yet evenly spread; in ascending order."""
    return invert_cdf(log_w, _points(log_w, n, rng, level, n))


def residual(log_w: Tensor, n: int, rng: Rng, level: int) -> Tensor:
    """floor(n w) copies of each, and the rest drawn from what was cut off (Liu and Chen 1998)."""
    share = n * shares(log_w)
    sure = share.floor()
    drawn = rng.categorical("resample", level, (share - sure).log(), n)
    position = torch.arange(n, device=log_w.device, dtype=sure.dtype).expand(len(log_w), n)
    copied = torch.searchsorted(sure.cumsum(dim=-1), position.contiguous(), right=True)
    return torch.where(position < sure.sum(dim=-1, keepdim=True), copied, drawn)


def systematic(log_w: Tensor, n: int, rng: Rng, level: int) -> Tensor:
    """One uniform a group, n evenly spaced points (Kitagawa 1996): floor or ceil of n w copies, in ascending order."""
    return invert_cdf(log_w, _points(log_w, n, rng, level, 1))


SCHEMES: dict[str, Resampler] = {
    "multinomial": multinomial,
    "stratified": stratified,
    "systematic": systematic,
    "residual": residual,
}
"""The schemes by name."""


def _points(log_w: Tensor, n: int, rng: Rng, level: int, uniforms: int) -> Tensor:
    """`[B, n]` points of [0, 1), one in each of n strata, moved by one uniform together or by one each."""
    u = move(rng.uniform("resample", level, (log_w.shape[0], uniforms)), log_w.device)
    return (torch.arange(n, device=log_w.device, dtype=u.dtype) + u) / n
