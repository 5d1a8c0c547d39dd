"""RERD: reward-guided refinement by noising and denoising again (Uehara et al. 2025, arXiv 2502.14944)."""

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, again, positive, uniform_plan
from ..core.value import posterior_mean

__all__ = ["rerd"]


def rerd(
    reward: Reward,
    width: int = 3,
    beams: int = 1,
    cycles: int = 4,
    edit: float = 0.1,
    temperature: float = 0.2,
    zscore: bool = True,
    *,
    value: Value = posterior_mean,
) -> Method:
    """RERD: SVDD, then again and again: draw among the clean samples, noise them a little, and SVDD back down.

    In a cycle the K beams are K draws in proportion to exp(r / temperature), each goes back by the share `edit` of the
    steps, and takes the best of `width` children at each step on its way down. It is
    importance sampling that starts from its own best samples, and it mends what a single descent can no longer
    change. No cycle is SVDD; one child and no draw (one beam) keep the model's law, for any number of cycles.

    The published code draws by exp(5 r) whatever the unit of r; here r is standardised over the beams first, unless
    `zscore` is False. As there, the last cycle's samples are returned, not the best of all.

    Args:
        reward: `(images, prompts) -> [N]`.
        width: children per beam, the paper's M (20 there).
        beams: samples per prompt (10 there).
        cycles: after the first descent (50 iterations there).
        edit: share of the steps that a cycle walks again (0.1 there).
        temperature: of the draw among clean samples; in standard deviations of their rewards with `zscore`.
        zscore: standardise the rewards of the group first.
        value: how a child's final reward is estimated.

    Raises:
        ValueError: for a share outside (0, 1], or a temperature that is not above 0.
    """
    positive("beams", beams), positive("cycles", cycles, at_least=0)
    draw = selection.draws(temperature, zscore) if beams > 1 else selection.top_k()

    def plan(width: int, num_steps: int) -> Plan:
        return again(uniform_plan(num_steps, beams, width), cycles, edit, choose=True)

    return Method(
        plan=Sized(plan, width),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.at_clean_end(draw, before=selection.best_child),
        name="rerd",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return rerd(reward, width=2, beams=2, cycles=2, edit=0.4)
