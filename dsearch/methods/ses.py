"""SES: spectral evolution search over the low frequencies of x_T (2026, arXiv 2602.03208)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, avg_pool2d

from ..core.contract import Reward, Rng, take
from ..core.method import Method, Rounds
from ..core.plan import positive
from .random_search import rounds_of_runs
from .zero_order import Runs

__all__ = ["ses"]


def ses(
    reward: Reward,
    candidates: int = 2,
    rounds: int = 2,
    elites: int = 2,
    level: int = 4,
    floor: float = 0.05,
    keep: int = 1,
) -> Method:
    """Rounds of whole runs whose low frequencies of x_T follow the best runs so far, by the cross-entropy method.

    The low band is the coarsest of `level` levels of Haar's wavelets: the mean of each block of 2^level x 2^level,
    times 2^level, which makes it standard normal. All other bands are drawn once for a prompt and stay. The first
    round draws the low band from N(0, 1), a later one from N(mu, var), the mean and unbiased variance of the `elites`
    best runs of all rounds, `floor` added to the variance, which would vanish without one. Made for samplers without
    noise (eta=0), for one with noise forgets x_T, and for samples with sides, which packed latents have not.

    The authors' code ranks runs of fewer steps and returns one full run that it never scores; here every run is in
    full, and the best of all is returned.

    Args:
        reward: `(images, prompts) -> [N]`.
        candidates: runs per round, side by side.
        rounds: one after another.
        elites: runs that set the next round's law, at least 2.
        level: of the wavelets; fewer where the sides of a sample are not multiples of 2^level.
        floor: added to the variance, above 0.
        keep: images per prompt to return, at most `candidates`.

    Raises:
        ValueError: naming the value and the bound.
    """
    positive("elites", elites, at_least=2), positive("level", level)
    if not (floor > 0 and math.isfinite(floor)):
        raise ValueError(f"floor={floor} must be above 0 and finite; without one the variance vanishes")
    return rounds_of_runs(
        "ses", reward, candidates, keep, Rounds(rounds, lambda rng: CrossEntropy(rng, elites, level, floor), False)
    )


@dataclass
class CrossEntropy:
    """The law of the low band of each prompt, learnt from all rounds so far."""

    rng: Rng
    elites: int
    level: int
    floor: float
    round: int = 0
    lows: list[Tensor] = field(default_factory=list)
    rewards: list[Tensor] = field(default_factory=list)
    last: "Banded | None" = None

    def next(self, rewards: Tensor | None) -> Rng:
        """Learns of the round before, and gives the noise of the next."""
        law = None
        if rewards is not None:
            assert self.last is not None
            self.rewards.append(rewards.cpu())
            self.lows += [] if self.last.low is None else [self.last.low]
            law = self._law() if self.lows else None
        self.round += 1
        self.last = Banded(self.rng.under(f"round {self.round}"), self.rng.under("bands"), self.level, law)
        return self.last

    def _law(self) -> tuple[Tensor, Tensor]:
        """`[B, 1, ...]` the mean and the variance of the best runs' low bands."""
        lows, rewards = torch.cat(self.lows, dim=1), torch.cat(self.rewards, dim=1)
        best = rewards.argsort(dim=1, descending=True, stable=True)[:, : self.elites]
        elite = take(lows, best)
        spread = elite.var(dim=1, keepdim=True) if elite.shape[1] > 1 else torch.ones_like(elite)
        return elite.mean(dim=1, keepdim=True), spread + self.floor


@dataclass
class Banded:
    """A noise source whose x_T has a low band by a law, and its prompt's other bands; it remembers the low band."""

    rng: Rng
    bands: Rng
    level: int
    law: tuple[Tensor, Tensor] | None
    low: Tensor | None = None

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals; of x_T, its low band by the law."""
        fresh = self.rng.normal(use, at, shape)
        if use != "start":
            return fresh
        own = self.bands.normal(use, at, (shape[0], 1, *shape[2:]))
        level = _levels(own, self.level)
        low = _low(fresh, level)
        if self.law is not None:
            low = self.law[0] + self.law[1].sqrt() * low
        self.low = low
        return own - _spread(_low(own, level), own, level) + _spread(low, fresh, level)

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Fresh draws."""
        return self.rng.uniform(use, at, shape)

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """Fresh draws."""
        return self.rng.categorical(use, at, log_p, n)

    def under(self, name: str) -> Rng:
        """Fresh draws for a part of a method."""
        return self.rng.under(name)

    def parts(self, total: int) -> Runs:
        """The noise of a few of the `total` runs at a time."""
        return Runs(self, total)


def _axes(x: Tensor) -> int:
    """How many axes, the last, have frequencies: the sides of a picture, or the one of a vector."""
    return min(2, x.ndim - 2)


def _levels(x: Tensor, level: int) -> int:
    """As many levels as the sides of a sample allow."""
    sides = math.gcd(*x.shape[-_axes(x) :]) if _axes(x) else 1
    return min(level, (sides & -sides).bit_length() - 1)


def _low(x: Tensor, level: int) -> Tensor:
    """`[B, K, ..., H, W]` -> its low band `[B, K, ..., H / 2^level, W / 2^level]`, orthonormal."""
    axes, block = _axes(x), 2**level
    if not axes:
        return x
    pooled = (avg_pool2d if axes == 2 else avg_pool1d)(x.flatten(0, -axes - 1)[:, None], block)[:, 0]
    return pooled.unflatten(0, x.shape[:-axes]) * math.sqrt(block**axes)


def _spread(low: Tensor, like: Tensor, level: int) -> Tensor:
    """The part of a sample that its low band is."""
    axes, block = _axes(like), 2**level
    for axis in range(1, axes + 1):
        low = low.repeat_interleave(block, dim=-axis)
    return low / math.sqrt(block**axes)


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return ses(reward, candidates=2, rounds=3)
