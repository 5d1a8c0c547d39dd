"""F-SMC: a funnel of particles (2025, arXiv 2508.12361)."""

from typing import Literal

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, drop_schedule, positive
from ..core.resample import SCHEMES
from ..core.value import posterior_mean
from .fk import Scheme

__all__ = ["funnel"]


def funnel(
    reward: Reward,
    particles: int = 6,
    keep: int = 2,
    lam: float = 1.0,
    drop: Literal["exponential", "linear", "quadratic", "sigmoid"] = "linear",
    schedule: Literal["geometric", "linear"] = "geometric",
    resampler: Scheme = "systematic",
    every: int = 5,
    *,
    value: Value = posterior_mean,
) -> Method:
    """Funnel SMC: many particles early, when samples are far apart and values weak, and few late, at one bill.

    As tempered SMC, but every look resamples to fewer: from `particles` to `keep` along the `drop` curve. Whoever is
    drawn carries the mean weight, so that `exp(result.log_z)` stays unbiased for any numbers. Where none is dropped it
    is `tempered` that resamples at every look.

    Args:
        reward: `(images, prompts) -> [N]`.
        particles: at x_T.
        keep: particles at the end, all of them returned with their weights.
        lam: strength, in 1 / units of the reward.
        drop: how particles fall: exponential, linear, quadratic or sigmoid.
        schedule: of the tempering: geometric or linear.
        resampler: multinomial, stratified, systematic or residual.
        every: levels from one look to the next.
        value: how a particle's final reward is estimated.

    Raises:
        ValueError: where keep exceeds particles, for a strength or curve that cannot be.
    """
    every = positive("every", every)
    drop_schedule(drop, particles, keep, 2)

    def plan(size: int, num_steps: int) -> Plan:
        """At `size` particles, `keep` in proportion."""
        fall = drop_schedule(drop, size, max(1, keep * size // particles), num_steps)
        kept, score = [size], []
        for level in range(1, num_steps):
            score.append(level % every == 0)
            kept.append(fall[level - 1] if score[-1] else kept[-1])
        return Plan(size, (1,) * num_steps, (*kept[1:], kept[-1]), (*score, True))

    weigh, select = potential.tempered(lam, schedule), selection.resample(SCHEMES[resampler])
    return Method(Sized(plan, particles), reward, value, weigh, select, name="funnel").checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return funnel(reward, particles=5, keep=2, lam=0.5, every=2)
