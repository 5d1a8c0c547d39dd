"""Particle Gibbs (Andrieu et al. 2010), as PG-DLM takes it to diffusion models (Dang et al. 2025, arXiv 2507.08390)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core import potential as potentials
from ..core.contract import Beams, Choice, Reward, Rng, Scores, precise, take
from ..core.method import Method, Rounds, Sized, Value
from ..core.plan import Plan, positive
from ..core.resample import multinomial
from ..core.rng import shares
from ..core.value import posterior_mean
from .zero_order import Runs

__all__ = ["pg"]


def pg(
    reward: Reward,
    particles: int = 2,
    sweeps: int = 2,
    lam: float = 1.0,
    every: int = 5,
    *,
    value: Value = posterior_mean,
) -> Method:
    """Particle Gibbs: sweeps of sequential Monte Carlo, of which each keeps a path of the one before.

    A sweep is FK steering by the difference potential, resampled at every look by the multinomial scheme, in which the
    first particle is the retained path and is never dropped; then a path is drawn by the final weights and retained.
    With two particles or more each sweep leaves the law p(x_0) exp(lam r(x_0)) as it is (conditional SMC; Andrieu,
    Doucet and Holenstein 2010), so that sweeps make up for particles that do not fit into memory: more
    sweeps are closer to the law at any number of particles. One particle is the same path each time.

    The path is retained as its noise, and its rows are paid for again. There is no ancestor sampling, which needs the
    density of the reverse kernel. The particles of the last sweep are returned with their weights, `softmax(log_w)`.

    Args:
        reward: `(images, prompts) -> [N]`.
        particles: of a sweep, the retained one among them.
        sweeps: one after another; the first has no path to retain.
        lam: strength, in 1 / units of the reward.
        every: levels from one look to the next.
        value: how a particle's final reward is estimated.

    Raises:
        ValueError: for a strength that cannot be.
    """
    particles, every = positive("particles", particles), positive("every", every)
    positive("sweeps", sweeps)

    def plan(particles: int, num_steps: int) -> Plan:
        n = particles * sweeps
        score = (*(level % every == 0 for level in range(1, num_steps)), True)
        return Plan(n, (1,) * num_steps, (*(n,) * (num_steps - 1), particles), score)

    return Method(
        plan=Sized(plan, particles),
        reward=reward,
        value=value,
        potential=potentials.difference(lam),
        select=conditional,
        name="pg",
        rounds=Rounds(sweeps, Retained, False),
    ).checked()


def conditional(scores: Scores, keep: int, rng: Rng) -> Choice:
    """The multinomial draw of all particles but the first, which is kept; of clean ones the last that were drawn.

    No KL: how long a path has been retained depends on the rewards.
    """
    log_w, n = precise(scores.log_w), scores.log_w.shape[1]
    place = torch.arange(n, device=log_w.device).expand(log_w.shape)
    if scores.final:
        drawn = place if scores.drawn is None else torch.where(scores.drawn, place, -1)
        index = drawn.topk(keep, dim=1).indices.flip(1)
        log_w = take(log_w, index)
    else:
        index = torch.cat([place[:, :1], multinomial(log_w, keep, rng, scores.level)[:, 1:]], dim=1)
        log_w = (log_w.logsumexp(dim=1, keepdim=True) - math.log(n)).expand(-1, keep)
    return Choice(index, log_w, torch.full_like(log_w, torch.nan))


@dataclass
class Retained:
    """The noise of sweeps: fresh, but that of the first particle is the retained path's.

    A path is drawn by its final weight, and remembered as what its model drew along it.
    """

    rng: Rng
    sweep: int = 0
    kept: dict[tuple[str, str, int], Tensor] = field(default_factory=dict)
    drawn: dict[tuple[str, str, int], Tensor] = field(default_factory=dict)
    path: str = ""

    def next(self, rewards: Tensor | None) -> Rng:
        """The noise of the next sweep."""
        self.sweep += 1
        self.drawn = {}
        return replace(self, rng=self.rng.under(f"sweep {self.sweep}"), drawn=self.drawn)

    def ran(self, beams: Beams, lineage: list[Tensor]) -> None:
        """Draws the path that is retained from the clean particles of a sweep, by their weights."""
        weights = shares(beams.log_w).log()
        beam = self.rng.categorical("retain", self.sweep, weights, 1)
        at = {}
        for step in reversed(range(len(lineage))):
            beam = take(lineage[step], beam)  # which particle it was before the draw at the end of the step
            at[step] = beam.cpu()
        at[-1] = beam.cpu()
        self.kept = {key: take(z, at[-1 if key[1] == "start" else key[2]]) for key, z in self.drawn.items()}

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals."""
        return self._with_kept(("normal", use, at), self.rng.normal(use, at, shape))

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Uniforms."""
        return self._with_kept(("uniform", use, at), self.rng.uniform(use, at, shape))

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """Fresh draws: they choose, and are no part of a path."""
        return self.rng.categorical(use, at, log_p, n)

    def under(self, name: str) -> Rng:
        """Fresh draws for a part of a method."""
        return self.rng.under(name)

    def parts(self, total: int) -> Runs:
        """The noise of a few of the `total` particles at a time."""
        return Runs(self, total)

    def _with_kept(self, key: tuple[str, str, int], fresh: Tensor) -> Tensor:
        if key in self.kept:
            fresh = torch.cat([self.kept[key], fresh[:, 1:]], dim=1)
        self.drawn[key] = fresh
        return fresh


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return pg(reward, particles=3, sweeps=2, lam=0.5, every=2)
