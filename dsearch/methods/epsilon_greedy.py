"""Epsilon-greedy search over the noise of each step (Ramesh and Mardani 2025, arXiv 2506.03164)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor

from ..core import potential, selection
from ..core.contract import Beams, Reward, Rng, Step, take
from ..core.engine import Engine
from ..core.expand import expand, step_done
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, positive, uniform_plan
from ..core.steps import children, valued, where
from ..core.value import posterior_mean
from ..core.watch import Watching

__all__ = ["epsilon_greedy"]


def epsilon_greedy(
    reward: Reward,
    candidates: int = 2,
    rounds: int = 2,
    epsilon: float = 0.4,
    radius: float = 0.15,
    beams: int = 1,
    *,
    value: Value = posterior_mean,
) -> Method:
    """At every step a small search over its noise: candidates around the best so far, and now and then a fresh one.

    In each of `rounds`, every candidate is fresh with probability epsilon, and otherwise sqrt(1 - radius^2) times the
    best noise of the rounds before plus `radius` times fresh noise; the best child of all rounds goes on. One
    round is SVDD of that many children; with epsilon 1, several are SVDD of all their candidates.

    The published local moves step along a random direction and leave the shell on which normals lie; these stay normal.
    A pivot stays a candidate, so that a round never loses what was found. The last, clean step takes one child.

    Args:
        reward: `(images, prompts) -> [N]`.
        candidates: in a round (4 there).
        rounds: at each step (20 there).
        epsilon: share of fresh candidates, in [0, 1].
        radius: share of fresh noise in the others, in (0, 1].
        beams: independent samples per prompt.
        value: how a child's final reward is estimated.

    Raises:
        ValueError: for an epsilon outside [0, 1] or a radius outside (0, 1].
    """
    positive("candidates", candidates), positive("rounds", rounds)
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon={epsilon} is outside [0, 1]; it is a probability")
    if not 0 < radius <= 1:
        raise ValueError(f"radius={radius} is outside (0, 1]; 1 is fresh noise")

    def plan(candidates: int, num_steps: int) -> Plan:
        return uniform_plan(num_steps, beams, candidates * rounds)

    return Method(
        plan=Sized(plan, candidates),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.best_child,
        name="epsilon_greedy",
        expand=Rounds(rounds, epsilon, radius),
    ).checked()


@dataclass(frozen=True)
class Rounds:
    """How a step is taken; the fields are those of `epsilon_greedy`."""

    rounds: int
    epsilon: float
    radius: float

    def __call__(
        self,
        engine: Engine,
        method: Method,
        plan: Plan,
        i: int,
        beams: Beams,
        watching: Watching,
        stop: Tensor | None,
    ) -> tuple[Beams, Step, Tensor | None]:
        """Step i: in groups that `stop [B]`, the first child of the first round alone."""
        if not plan.score[i] or plan.reached[i] == plan.num_steps:
            return expand(engine, method, plan, i, beams, watching, stop)
        (b, k), n, level = beams.prompt_index.shape, plan.width[i] // self.rounds, plan.levels[i]
        place = torch.arange(k * n, device=beams.x.device)
        number = place // n * plan.width[i] + place % n  # among the candidates of all rounds
        pivot, best, said = dict[tuple[str, str, int], Tensor](), beams, list[Tensor]()
        for q in range(self.rounds):
            rng = engine.rng.under(f"round {q}") if q else engine.rng
            noise = Around(rng, self.radii(rng, level, (b, k, n)), pivot)
            drawn = None if stop is None else ~stop[:, None] | ((place % n == 0) & (q == 0))
            if drawn is not None and not drawn.any():
                said.append(torch.full_like(said[0], -torch.inf))
                continue
            with engine.drawing(noise):
                made = children(engine, beams, level, n, drawn)
            made = replace(made, child=(number + q * n).expand(b, -1))
            made = replace(made, value=valued(engine, method, made, plan.reached[i], watching))
            said.append(made.value)
            index = rearrange(made.value, "b (k n) -> b k n", n=n).argmax(dim=-1)
            found = made.take(torch.arange(k, device=index.device) * n + index)
            better = found.value > best.value if q else torch.ones_like(index, dtype=torch.bool)
            best = where(better, found, best)
            if q + 1 < self.rounds:
                pivot = noise.moved(torch.where(better, index, -1).cpu())
        values = torch.cat([rearrange(v, "b (k n) -> b k n", n=n) for v in said], dim=2).flatten(1)
        unknown = torch.full_like(best.kl, torch.nan)
        return replace(best, kl=unknown), step_done(plan, i, values), None

    def radii(self, rng: Rng, level: int, shape: tuple[int, int, int]) -> Tensor:
        """`[B, K, n]` the share of fresh noise of each candidate: 1 with probability epsilon."""
        fresh = rng.uniform("explore", level, shape) < self.epsilon
        return torch.where(fresh, 1.0, self.radius)


@dataclass
class Around:
    """A noise source around a pivot `[B, K, 1, ...]`; it remembers what it drew.

    Attributes:
        rng: fresh noise.
        radius: `[B, K, n]` how much of it each candidate takes.
        pivot: by draw; none in the first round.
        drawn: by draw `[B, K, n, ...]`.
    """

    rng: Rng
    radius: Tensor
    pivot: dict[tuple[str, str, int], Tensor]
    drawn: dict[tuple[str, str, int], Tensor] = field(default_factory=dict)

    def moved(self, index: Tensor) -> dict[tuple[str, str, int], Tensor]:
        """The pivots of the next round: the noise of candidate `index [B, K]`; below 0 the pivot stays."""
        made = {}
        for key, z in self.drawn.items():
            won = take(z.flatten(0, 1), index.clamp(min=0).flatten()[:, None]).unflatten(0, index.shape)
            old = self.pivot.get(key, won)
            made[key] = torch.where((index >= 0).view(*index.shape, *[1] * (won.ndim - 2)), won, old)
        return made

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals."""
        return self._near(("normal", use, at), self.rng.normal(use, at, shape))

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Uniforms, mixed as the normals that they are the distribution function of."""
        normal = torch.special.ndtri(self.rng.uniform(use, at, shape).clamp(1e-300, 1 - 2**-53))
        return torch.special.ndtr(self._near(("uniform", use, at), normal)).clamp(max=1 - 2**-53)

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """Fresh draws."""
        return self.rng.categorical(use, at, log_p, n)

    def under(self, name: str) -> Rng:
        """Fresh draws for a part of a method."""
        return self.rng.under(name)

    def parts(self, total: int) -> "Around":
        """Rounds are drawn whole."""
        return self

    def seek(self, start: int, count: int) -> None:
        """Rounds are drawn whole."""

    def _near(self, key: tuple[str, str, int], fresh: Tensor) -> Tensor:
        if key in self.pivot:
            # z' = sqrt(1 - radius^2) z + radius e: still N(0, 1)
            r = self.radius.view(*self.radius.shape, *[1] * (fresh.ndim - 3)).to(fresh.dtype)
            fresh = torch.where(r == 1, fresh, (1 - r**2).sqrt() * self.pivot[key] + r * fresh)
        self.drawn[key] = fresh
        return fresh


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return epsilon_greedy(reward, candidates=2, rounds=2, beams=2, radius=0.5)
