"""The noise source: keyed, never global.

A draw depends on (seed, id of the group, name, use, step) alone, so a prompt meets the same noise alone or among
many, in any chunking, on one process or eight. The key is hashed to the 128 bits of numpy's Philox: torch's CPU
generator keeps only 32 bits of its seed, and its streams are not stable under a change of length.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["KeyedRng", "invert_cdf", "move"]


@dataclass(frozen=True)
class KeyedRng:
    """The default noise source.

    Attributes:
        seed: any whole number.
        ids: an int or str a group; groups of equal id draw equal noise.
        name: set apart by `under`.

    Raises:
        TypeError: for other ids, whose text may differ from run to run.
    """

    seed: int
    ids: tuple[Hashable, ...]
    name: str = ""

    def __post_init__(self) -> None:
        for key in self.ids:
            if not isinstance(key, int | str | np.integer):
                raise TypeError(f"id {key!r} is a {type(key).__name__}; name a group by an int or a str")

    def normal(self, use: str, step: int, shape: Sequence[int]) -> Tensor:
        """Standard normals, float32, on the CPU; `shape[0]` is the number of groups."""
        return self._draw(use, step, shape, torch.float32, lambda g, out: g.standard_normal(out=out, dtype=out.dtype))

    def uniform(self, use: str, step: int, shape: Sequence[int]) -> Tensor:
        """Uniforms in [0, 1), float64, on the CPU; `shape[0]` is the number of groups."""
        return self._draw(use, step, shape, torch.float64, lambda g, out: g.random(out=out, dtype=out.dtype))

    def categorical(self, use: str, step: int, log_p: Tensor, n: int) -> Tensor:
        """`log_p [B, N]`, not necessarily normalised -> `[B, n]` indices drawn with replacement."""
        u = self.uniform(use, step, (log_p.shape[0], n))
        return invert_cdf(log_p, move(u, log_p.device))

    def under(self, name: str) -> KeyedRng:
        """A source of its own for a part of a method."""
        return KeyedRng(self.seed, self.ids, f"{self.name}/{name}")

    def _draw(self, use: str, step: int, shape: Sequence[int], dtype: torch.dtype, fill: Callable[..., Any]) -> Tensor:
        if shape[0] != len(self.ids):
            raise ValueError(f"noise asked for {shape[0]} groups, but this source has {len(self.ids)} ids")
        out = torch.empty(tuple(shape), dtype=dtype)
        for key, group in zip(self.ids, out.view(len(self.ids), -1).numpy(), strict=True):
            fill(self._generator(use, step, key), group)
        return out

    def _generator(self, use: str, step: int, key: Hashable) -> np.random.Generator:
        # numpy's integers print their type, so they are made plain: seeds from np.arange are those from range.
        key = int(key) if isinstance(key, np.integer) else key
        text = repr((operator.index(self.seed), self.name, use, step, key)).encode()
        bits = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=bits))


def move(drawn: Tensor, device: torch.device | str) -> Tensor:
    """What was drawn on the host, on the device, without waiting for the work that is queued there."""
    device = torch.device(device)
    if device.type == "cuda":
        drawn = drawn.pin_memory()
    return drawn.to(device, non_blocking=True)


def invert_cdf(log_w: Tensor, u: Tensor) -> Tensor:
    """`log_w [..., N]` and uniforms `u [..., n]` in [0, 1) -> `[..., n]` indices; never one of zero weight.

    In float64, normalised, with `right=True`: u = 0 falls on the first index of positive weight. Infinite weights are
    shared equally, and so are the weights where all are zero.
    """
    log_w = log_w.double()
    top = log_w.amax(dim=-1, keepdim=True)
    # Where the top is infinite, subtracting it from itself is nan, and the index would fall outside.
    cdf = torch.where(log_w == top, 0.0, log_w - top).softmax(dim=-1).cumsum(dim=-1)
    # The last sum is 1 only up to rounding; dividing makes it 1 exactly, and u stays below it.
    u = u.double().clamp(max=math.nextafter(1.0, 0.0))
    index = torch.searchsorted(cdf / cdf[..., -1:], u.contiguous(), right=True)
    return index.clamp_(max=log_w.shape[-1] - 1)  # nan weights must not index outside before they are refused
