"""Values: estimates of the reward that a candidate will end with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

from .contract import Beams, Prediction, Rng, map_tree
from .engine import Engine
from .method import Value
from .plan import Bill, one_of, positive

__all__ = [
    "Learned",
    "Lookahead",
    "PosteriorMean",
    "Sees",
    "Switched",
    "learned",
    "lookahead",
    "posterior_mean",
    "switched",
]


class PosteriorMean:
    """v(x_t) = r(x0_hat(x_t)): the reward of the posterior mean (SVDD-PM, Li et al. 2024, arXiv 2408.08252).

    The prediction is at hand, so a candidate costs one decode and one reward.
    """

    def __call__(self, children: Beams, level: int, engine: Engine) -> Tensor:
        """Candidates `[B, N, ...]` -> `[B, N]`."""
        return engine.reward(children.pred.x0, children.prompt_index, level)

    def cost(self, level: int, num_steps: int) -> Bill:
        """One decode and one reward."""
        return Bill(0, 1, 1)


posterior_mean = PosteriorMean()

Reduce = Literal["mean", "max", "soft"]


class Lookahead:
    """v(x_t) from M rollouts of K pretrained steps, each rewarded at its posterior mean (Li et al. 2025, 2503.02039).

    A rollout that reaches the clean end is rewarded there. Rollouts have noise of their own, apart from the search's.

    Args:
        steps: K; 0 is the posterior mean.
        rollouts: M.
        deterministic: roll out without noise, by the model's `deterministic` step; M is then 1.
        over: the mean of the rollouts, their max, or "soft": alpha log mean exp(r / alpha), the soft value of SVDD,
            whose logarithm makes few rollouts underestimate it.
        alpha: the temperature of "soft", in units of the reward.

    Raises:
        ValueError: naming the value and the bound.
    """

    def __init__(
        self, steps: int, rollouts: int = 1, deterministic: bool = False, over: Reduce = "mean", alpha: float = 1.0
    ) -> None:
        self.steps, self.rollouts = positive("steps", steps, at_least=0), positive("rollouts", rollouts)
        one_of("over", over, Reduce)
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"alpha={alpha} must be above 0 and finite")
        if rollouts > 1 and (deterministic or steps == 0):
            raise ValueError(f"rollouts={rollouts} without noise are all equal; take 1, or stochastic steps")
        self.deterministic, self.over, self.alpha = deterministic, over, alpha

    def __call__(self, children: Beams, level: int, engine: Engine) -> Tensor:
        """Candidates `[B, N, ...]` -> `[B, N]`."""
        x, pred, prompt_index = children.x, children.pred, children.prompt_index
        rng, split = engine.rng.under(f"lookahead from {level}"), self.rollouts  # the first step makes the M rollouts
        for step in range(level, self._end(level, engine.denoiser.num_steps)):
            x = self._stepped(x, pred, step, split, engine, rng).flatten(1, 2)
            prompt_index = repeat(prompt_index, "b n -> b (n m)", m=split)
            pred, split = engine.predict(x, prompt_index, step + 1), 1
        return self._over(rearrange(engine.reward(pred.x0, prompt_index, level), "b (n m) -> b n m", m=self.rollouts))

    def cost(self, level: int, num_steps: int) -> Bill:
        """A row for each step of each rollout (the clean end needs none), a decode and a reward for each rollout."""
        end = self._end(level, num_steps)
        rows = min(end, num_steps - 1) - min(level, num_steps - 1)
        return Bill(self.rollouts * rows, self.rollouts, self.rollouts)

    def _end(self, level: int, num_steps: int) -> int:
        return min(level + self.steps, num_steps)

    def _stepped(self, x: Tensor, pred: Prediction, step: int, split: int, engine: Engine, rng: Rng) -> Tensor:
        """`[B, N, ...]` -> `[B, N, split, ...]`."""
        x, pred = map_tree(lambda leaf: leaf[:, :, None], (x, pred))
        if not self.deterministic:
            noise = engine.denoiser.noise(step, (x.shape[0], x.shape[1], split), rng)
            return engine.denoiser.step(x, pred, step, noise)
        mean = getattr(engine.denoiser, "deterministic", None)
        if mean is None:
            raise TypeError(f"{type(engine.denoiser).__name__} has no deterministic step; use stochastic rollouts")
        return mean(x, pred, step)

    def _over(self, ends: Tensor) -> Tensor:
        """`[B, N, M]` -> `[B, N]`."""
        if self.over != "soft":
            return reduce(ends, "b n m -> b n", self.over)
        return self.alpha * (torch.logsumexp(ends / self.alpha, dim=-1) - math.log(self.rollouts))


lookahead = Lookahead

Sees = Literal["x", "x0"]
"""What a learned value reads: noisy samples, or their posterior means."""


class Learned:
    """v(x_t, t) from a network trained on the final rewards of the pretrained model's own runs (SVDD-MC, 2408.08252).

    A candidate costs one reward call, as which the network is counted; nothing is decoded.
    `dsearch.values.network` has a small network and its training.

    Args:
        network: `(x [R, ...], level, R prompts) -> [R]`, of noisy samples at a level from 1 to num_steps - 1. Where it
            has `num_steps`, it must be the model's.
        sees: "x", the noisy samples, or "x0", their posterior means; by default the network's own `sees`, or else "x".

    Raises:
        ValueError: for another word; in a search, for a network trained for another number of steps.
    """

    def __init__(self, network: Callable[[Tensor, int, list[str]], Tensor], sees: Sees | None = None) -> None:
        self.network, self.sees = network, getattr(network, "sees", "x") if sees is None else sees
        one_of("sees", self.sees, Sees)

    def __call__(self, children: Beams, level: int, engine: Engine) -> Tensor:
        """Candidates `[B, N, ...]` -> `[B, N]`."""
        trained, taken = getattr(self.network, "num_steps", None), engine.denoiser.num_steps
        if trained not in (None, taken):
            raise ValueError(
                f"the value network knows {trained} steps, but the model takes {taken}; train it for these"
            )
        x = children.x if self.sees == "x" else children.pred.x0
        return engine.score(lambda x, prompts: self.network(x, level, prompts), x, children.prompt_index, level)

    def cost(self, level: int, num_steps: int) -> Bill:
        """One reward call."""
        return Bill(0, 0, 1)


learned = Learned


class Switched:
    """One value early, another late: a network while posterior means are a blur, say, and their reward from then on.

    Args:
        early: the value of levels below `share * num_steps`.
        late: that of the others.
        share: of the steps, in (0, 1).

    Raises:
        ValueError: for another share.
    """

    def __init__(self, early: Value, late: Value, share: float = 0.5) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share={share} is outside (0, 1); use one of the two values alone")
        self.early, self.late, self.share = early, late, share

    def __call__(self, children: Beams, level: int, engine: Engine) -> Tensor:
        """Candidates `[B, N, ...]` -> `[B, N]`."""
        return self._at(level, engine.denoiser.num_steps)(children, level, engine)

    def cost(self, level: int, num_steps: int) -> Bill:
        """That of the value asked."""
        return self._at(level, num_steps).cost(level, num_steps)

    def _at(self, level: int, num_steps: int) -> Value:
        return self.early if level < self.share * num_steps else self.late


switched = Switched
