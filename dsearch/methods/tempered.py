"""Tempered SMC (DAS, Kim et al. 2025, arXiv 2501.05803)."""

from typing import Literal

from ..core import potential
from ..core.contract import Reward
from ..core.method import Method, Value
from ..core.plan import one_of
from ..core.value import posterior_mean
from .fk import Scheme, steered

__all__ = ["tempered"]

Schedule = Literal["geometric", "linear", "adaptive"]


def tempered(
    reward: Reward,
    particles: int = 4,
    lam: float = 1.0,
    schedule: Schedule = "geometric",
    resampler: Scheme = "systematic",
    ess_below: float = 0.5,
    start: int | None = None,
    stop: int | None = None,
    every: int = 1,
    *,
    value: Value = posterior_mean,
) -> Method:
    """Tempered SMC: as FK steering by differences, but early values, which are guesses, count for less.

    The target after level i is p(x_i) exp(lam g_i r_i) with g_i rising to 1: linear i/T, geometric 2^(i/T) - 1 (the
    paper's (1 + gamma)^i - 1), or adaptive, each as large as leaves an ESS of `ess_below` of the particles, which are
    then resampled. The paper also moves particles by the gradient of the reward; this is its gradient-free part, for
    any reward.

    Args:
        reward: `(images, prompts) -> [N]`.
        particles: samples per prompt, throughout.
        lam: strength, in 1 / units of the reward.
        schedule: of the tempering: geometric, linear or adaptive.
        resampler: multinomial, stratified, systematic or residual.
        ess_below: share of the particles below which the ESS makes them resample; below 1 with "adaptive".
        start: first level at which to look; `every` by default.
        stop: level from which on not to look; the clean end always counts.
        every: levels from one look to the next.
        value: how a particle's final reward is estimated.

    Raises:
        ValueError: for a strength, share or window that cannot be.
    """
    one_of("schedule", schedule, Schedule)
    weigh = potential.adaptive(lam, ess_below) if schedule == "adaptive" else potential.tempered(lam, schedule)
    # The bisection ends a little above its aim, where a draw is due.
    below = ess_below * (1 + 1e-6) if schedule == "adaptive" else ess_below
    return steered("tempered", reward, particles, weigh, resampler, below, start, stop, every, value)


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return tempered(reward, particles=4, lam=0.5)
