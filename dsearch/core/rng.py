"""The noise source: keyed, never global.

A draw depends on (seed, id of the group, name, use, step or level) alone, so a prompt meets the same noise alone or
among many, in any chunking, on one process or eight. The key is hashed to the 128 bits of numpy's Philox: torch's CPU
generator keeps only 32 bits of its seed, and its streams are not stable under a change of length.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .contract import precise, weight_dtype

__all__ = ["KeyedParts", "KeyedRng", "invert_cdf", "move", "shares"]


@dataclass(frozen=True)
class KeyedRng:
    """The default noise source.

    Attributes:
        seed: any whole number.
        ids: an int or str per group; groups of equal id draw equal noise, whatever the type (`numpy.str_`, an Enum).
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

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals, float32, on the CPU; `shape[0]` is the number of groups."""
        return self._draw(use, at, shape, torch.float32, _normal)

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Uniforms in [0, 1), float64, on the CPU; `shape[0]` is the number of groups."""
        return self._draw(use, at, shape, torch.float64, _uniform)

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """`log_p [B, N]`, not necessarily normalised -> `[B, n]` indices drawn with replacement."""
        u = self.uniform(use, at, (log_p.shape[0], n))
        return invert_cdf(log_p, move(u, log_p.device))

    def under(self, name: str) -> KeyedRng:
        """A source of its own for a part of a method."""
        return KeyedRng(self.seed, self.ids, f"{self.name}/{name}")

    def parts(self, total: int) -> KeyedParts:
        """The same noise, for a few candidates after another, however many there are."""
        return KeyedParts(self)

    def _draw(self, use: str, at: int, shape: Sequence[int], dtype: torch.dtype, fill: Fill) -> Tensor:
        return _filled([self.generator(use, at, key) for key in self.ids], shape, dtype, fill)

    def generator(self, use: str, at: int, key: Hashable) -> np.random.Generator:
        """The stream of one group, from its beginning."""
        # Subclasses print their type, so ids are made plain: those that compare equal name the same noise.
        key = str.__str__(key) if isinstance(key, str) else operator.index(key)  # type: ignore[arg-type]
        text = repr((operator.index(self.seed), self.name, use, at, key)).encode()
        bits = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=bits))


class KeyedParts:
    """The noise of a `KeyedRng` for some of a step's candidates: what they would meet if all were drawn at once.

    `seek(start, count)` says for which candidates of each group the next draws are; in ascending order nothing is drawn
    twice. What is drawn must hold the same number for each candidate, in their order.
    """

    def __init__(self, rng: KeyedRng, share: KeyedParts | None = None) -> None:
        self._rng = rng
        self._here: list[int] = [0, 0] if share is None else share._here
        self._open: dict[Any, tuple[list[np.random.Generator], list[int]]] = {} if share is None else share._open

    def parts(self, total: int) -> KeyedParts:
        """A place of its own in the same noise."""
        return KeyedParts(self._rng)

    def seek(self, start: int, count: int) -> None:
        """The next draws are for candidates `start` to `start + count - 1`."""
        self._here[:] = start, count

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals, float32, on the CPU; `shape[0]` is the number of groups."""
        return self._draw("normal", use, at, shape, torch.float32, _normal)

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Uniforms in [0, 1), float64, on the CPU; `shape[0]` is the number of groups."""
        return self._draw("uniform", use, at, shape, torch.float64, _uniform)

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """`log_p [B, N]`, not necessarily normalised -> `[B, n]` indices drawn with replacement."""
        return invert_cdf(log_p, move(self.uniform(use, at, (log_p.shape[0], n)), log_p.device))

    def under(self, name: str) -> KeyedParts:
        """A source of its own for a part of a method."""
        return KeyedParts(self._rng.under(name), self)

    def _draw(self, law: str, use: str, at: int, shape: Sequence[int], dtype: torch.dtype, fill: Fill) -> Tensor:
        start, count = self._here
        each, rest = divmod(math.prod(shape[1:]), count)
        if rest:
            raise _uneven(use, at, shape, count)
        key = law, self._rng.name, use, at
        if key not in self._open or self._open[key][1][0] > start * each:
            self._open[key] = [self._rng.generator(use, at, group) for group in self._rng.ids], [0]
        generators, place = self._open[key]
        for passed in _pieces(start * each - place[0]):
            _filled(generators, (len(generators), passed), dtype, fill)
        place[0] = (start + count) * each
        return _filled(generators, shape, dtype, fill)


def _uneven(use: str, at: int, shape: Sequence[int], count: int) -> ValueError:
    return ValueError(
        f"{use!r} at step {at} draws {tuple(shape)} for {count} candidates per group, not the same for each, "
        "so they cannot be drawn a few at a time; pass Chunks(network=None), and as many prompts as there are processes"
    )


Fill = Callable[[np.random.Generator, np.ndarray], Any]


def _normal(generator: np.random.Generator, out: np.ndarray) -> None:
    generator.standard_normal(out=out, dtype=np.float32)


def _uniform(generator: np.random.Generator, out: np.ndarray) -> None:
    generator.random(out=out, dtype=np.float64)


def _filled(generators: list[np.random.Generator], shape: Sequence[int], dtype: torch.dtype, fill: Fill) -> Tensor:
    if shape[0] != len(generators):
        raise ValueError(f"noise asked for {shape[0]} groups, but this source has {len(generators)} ids")
    out = torch.empty(tuple(shape), dtype=dtype, device="cpu")  # and not the user's default device
    for generator, group in zip(generators, out.view(len(generators), -1).numpy(), strict=True):
        fill(generator, group)
    return out


def _pieces(count: int, size: int = 1 << 20) -> Iterator[int]:
    """What is passed over is drawn and dropped, a little at a time: each normal takes as many bits as it happens to."""
    for at in range(0, count, size):
        yield min(size, count - at)


def move(drawn: Tensor, device: torch.device | str) -> Tensor:
    """What was drawn on the host, on the device, without waiting for the work that is queued there.

    Where the device has no float64 it becomes float32. Of what comes back to the host the copy is waited for.
    """
    device = torch.device(device)
    if drawn.dtype == torch.float64:
        drawn = drawn.to(weight_dtype(device))
    if device.type == "cuda" and drawn.device.type == "cpu":  # pragma: no cover  # only CUDA copies beside its work
        drawn = drawn.pin_memory()
    return drawn.to(device, non_blocking=device.type != "cpu")


def shares(log_w: Tensor) -> Tensor:
    """`[..., N]` log-weights -> the normalised weights, float64.

    Infinite weights are shared equally, and so are the weights where all are zero.
    """
    log_w = precise(log_w)
    top = log_w.amax(dim=-1, keepdim=True)
    # Where the top is infinite, subtracting it from itself is nan.
    return torch.where(log_w == top, 0.0, log_w - top).softmax(dim=-1)


def invert_cdf(log_w: Tensor, u: Tensor) -> Tensor:
    """`log_w [..., N]` and uniforms `u [..., n]` in [0, 1) -> `[..., n]` indices; never one of zero weight.

    In float64, of `shares`, with `right=True`: u = 0 falls on the first index of positive weight.
    """
    cdf = shares(log_w).cumsum(dim=-1)
    # The last sum is 1 only up to rounding; dividing makes it 1 exactly, and u stays below it.
    u = u.to(cdf.dtype).clamp(max=1 - torch.finfo(cdf.dtype).eps / 2)
    index = torch.searchsorted(cdf / cdf[..., -1:], u.contiguous(), right=True)
    return index.clamp_(max=log_w.shape[-1] - 1)  # nan weights must not index outside before they are refused
