"""Zero-order noise search (Ma et al. 2025, arXiv 2501.09732)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.contract import Reward, Rng, take
from ..core.method import Method, Rounds
from .random_search import rounds_of_runs

__all__ = ["zero_order"]


def zero_order(
    reward: Reward, candidates: int = 2, rounds: int = 2, radius: float = 0.5, path: bool = True, keep: int = 1
) -> Method:
    """Rounds of whole runs around the best noise so far: a hill climb that never differentiates the model.

    The first round draws fresh noise. The noise of each run of a later one is sqrt(1 - radius^2) times that of the
    best run so far plus `radius` times fresh noise: still normal, and by `radius` away from it. A sampler with noise
    at every step forgets x_T, so by default the noise of all steps is searched; the paper, which samples an ODE,
    searches x_T alone.

    Args:
        reward: `(images, prompts) -> [N]`.
        candidates: runs per round, side by side.
        rounds: one after another.
        radius: share of fresh noise, in (0, 1]; 1 is random search.
        path: search the noise of all steps; False searches x_T, under the step noise of each run's own.
        keep: images per prompt to return, at most `candidates`.

    Raises:
        ValueError: where keep exceeds candidates, or for a radius outside (0, 1].
    """
    if not 0 < radius <= 1:
        raise ValueError(f"radius={radius} is outside (0, 1]; 1 is random search")
    climb = Rounds(rounds, lambda rng: Climb(rng, radius, path), False)
    return rounds_of_runs("zero_order", reward, candidates, keep, climb)


@dataclass
class Climb:
    """Remembers the noise of the best run so far of each prompt, and draws around it."""

    rng: Rng
    radius: float
    path: bool
    round: int = 0
    best: Tensor | None = None
    pivot: dict[tuple[str, str, int], Tensor] = field(default_factory=dict)
    last: "Near | None" = None

    def next(self, rewards: Tensor | None) -> Rng:
        """Learns of the round before, and gives the noise of the next."""
        if rewards is not None:
            self._move(rewards.cpu())
        self.round += 1
        self.last = Near(self.rng.under(f"round {self.round}"), self.radius, self.path, dict(self.pivot))
        return self.last

    def _move(self, rewards: Tensor) -> None:
        """`[B, k]` rewards: the pivot of a prompt becomes its best run, where that is better than the pivot's."""
        assert self.last is not None
        top, run = rewards.max(dim=1, keepdim=True)
        better = torch.ones_like(top, dtype=torch.bool) if self.best is None else top > self.best
        self.best = top if self.best is None else torch.maximum(self.best, top)
        for key, drawn in self.last.drawn.items():
            won, old = take(drawn, run), self.pivot.get(key)
            self.pivot[key] = won if old is None else torch.where(better.view(-1, *[1] * (won.ndim - 1)), won, old)


@dataclass
class Near:
    """A noise source around that of a pivot, `[B, 1, ...]` a draw; it remembers what it drew."""

    rng: Rng
    radius: float
    path: bool
    pivot: dict[tuple[str, str, int], Tensor]
    drawn: dict[tuple[str, str, int], Tensor] = field(default_factory=dict)

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals."""
        return self._near("normal", use, at, self.rng.normal(use, at, shape))

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Uniforms, mixed as the normals that they are the distribution function of."""
        normal = torch.special.ndtri(self.rng.uniform(use, at, shape).clamp(1e-300, 1 - 2**-53))
        return torch.special.ndtr(self._near("uniform", use, at, normal)).clamp(max=math.nextafter(1.0, 0.0))

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """Fresh draws."""
        return self.rng.categorical(use, at, log_p, n)

    def under(self, name: str) -> "Near":
        """Fresh draws for a part of a method."""
        return replace(self, rng=self.rng.under(name), pivot={}, drawn={})

    def parts(self, total: int) -> "Runs":
        """The noise of a few of the `total` runs at a time."""
        return Runs(self, total)

    def _near(self, kind: str, use: str, at: int, fresh: Tensor) -> Tensor:
        key = (kind, use, at)
        if not (self.path or use == "start"):
            return fresh
        if key in self.pivot:
            # z' = sqrt(1 - radius^2) z + radius e: still N(0, 1)
            fresh = math.sqrt(1 - self.radius**2) * self.pivot[key] + self.radius * fresh
        self.drawn[key] = fresh
        return fresh


@dataclass
class Runs:
    """The noise of some runs of a round: that of all is drawn, for any may become the next pivot."""

    near: Rng
    total: int
    start: int = 0

    def seek(self, start: int, count: int) -> None:
        """The next draws are for runs `start` to `start + count - 1`."""
        self.start = start

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals, `shape[1]` the number of runs."""
        return self._some(self.near.normal, use, at, shape)

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Uniforms, likewise."""
        return self._some(self.near.uniform, use, at, shape)

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """Fresh draws."""
        return self.near.categorical(use, at, log_p, n)

    def under(self, name: str) -> "Runs":
        """Fresh draws for a part of a method."""
        return replace(self, near=self.near.under(name))

    def parts(self, total: int) -> "Runs":
        """A place of its own in the same noise."""
        return Runs(self.near, total)

    def _some(self, draw: Callable[..., Tensor], use: str, at: int, shape: Sequence[int]) -> Tensor:
        return draw(use, at, (shape[0], self.total, *shape[2:]))[:, self.start : self.start + shape[1]]


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return zero_order(reward, candidates=2, rounds=2)
