"""FK steering (Singhal et al. 2025, arXiv 2501.06848), and with it sequential Monte Carlo."""

from typing import Literal

from ..core import potential as potentials
from ..core import selection
from ..core.contract import Potential, Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, one_of, positive
from ..core.resample import SCHEMES
from ..core.value import posterior_mean

__all__ = ["fk"]

Kind = Literal["difference", "max", "sum", "plain"]
Scheme = Literal["multinomial", "stratified", "systematic", "residual"]


def fk(
    reward: Reward,
    particles: int = 4,
    lam: float = 1.0,
    potential: Kind = "difference",
    resampler: Scheme = "systematic",
    ess_below: float = 0.5,
    start: int | None = None,
    stop: int | None = None,
    every: int = 5,
    *,
    value: Value = posterior_mean,
) -> Method:
    """FK steering: particles weighed by potentials of their values and resampled, towards p(x_0) exp(lam r(x_0)).

    The values r_i are asked at the levels start, start + every, ... below stop; the potentials (section 3) are
    difference exp(lam (r_i - r_{i-1})), max exp(lam max_{s<=i} r_s), sum exp(lam sum_{s<=i} r_s) or plain
    exp(lam r_i), and the last one, at the clean end, makes the product exp(lam r(x_0)). Particles are resampled where
    their ESS is below `ess_below` of them, and never at the clean end: all are returned with their weights, so that
    `softmax(result.log_w)` estimates expectations under the tilted law, and `result.log_z` its log normaliser.

    Max, sum and plain count a value again at every look. The more looks, the further ahead of the truth their weights
    run, and the fewer ancestors are left when the last potential takes it back: look a few times, or take difference.

    Args:
        reward: `(images, prompts) -> [N]`.
        particles: samples per prompt, throughout.
        lam: strength, in 1 / units of the reward.
        potential: difference, max, sum or plain.
        resampler: multinomial, stratified, systematic or residual.
        ess_below: share of the particles below which the ESS makes them resample; 1 resamples at every look.
        start: first level at which to look, 1 after the first step; `every` by default.
        stop: level from which on not to look; the clean end always counts.
        every: levels from one look to the next; 1 is classical SMC.
        value: how a particle's final reward is estimated.

    Raises:
        ValueError: for a strength, share or window that cannot be.
    """
    one_of("potential", potential, Kind)
    return steered(
        "fk", reward, particles, potentials.KINDS[potential](lam), resampler, ess_below, start, stop, every, value
    )


def steered(
    name: str,
    reward: Reward,
    particles: int,
    potential: Potential,
    resampler: Scheme,
    ess_below: float,
    start: int | None,
    stop: int | None,
    every: int,
    value: Value,
) -> Method:
    """Particles of width 1 that a potential weighs at some levels."""
    one_of("resampler", resampler, Scheme)
    first = positive("every", every) if start is None else positive("start", start)

    def plan(particles: int, num_steps: int) -> Plan:
        last = num_steps if stop is None else min(positive("stop", stop), num_steps)
        looks = range(first, last, every)
        score = (*(level in looks for level in range(1, num_steps)), True)
        return Plan(particles, (1,) * num_steps, (particles,) * num_steps, score)

    select = selection.resample(SCHEMES[resampler], ess_below)
    return Method(Sized(plan, particles), reward, value, potential, select, name=name).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return fk(reward, particles=4, lam=0.5, every=2)
