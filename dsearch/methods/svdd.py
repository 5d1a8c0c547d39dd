"""SVDD: soft value-based decoding (Li et al. 2024, arXiv 2408.08252)."""

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, uniform_plan
from ..core.value import posterior_mean

__all__ = ["svdd"]


def svdd(
    reward: Reward, width: int = 4, beams: int = 1, temperature: float = 0.0, *, value: Value = posterior_mean
) -> Method:
    """SVDD: `width` children at every step, valued by the reward of their posterior mean (SVDD-PM); one is kept.

    The soft-optimal policy is p(x_{t-1} | x_t) exp(v(x_{t-1}) / alpha) (equation 4 of the paper); its samples are
    approximated by one draw from softmax(v / alpha) over the children, and for alpha = 0 by the best child. The last,
    clean step takes one child, as in the published code.

    Args:
        reward: `(images, prompts) -> [N]`.
        width: children per beam, the paper's M (20 there).
        beams: independent samples per prompt.
        temperature: the paper's alpha, in units of the reward; 0 takes the best child.
        value: how a child's final reward is estimated; `value.learned(network)` makes it SVDD-MC.
    """

    def plan(width: int, num_steps: int) -> Plan:
        return uniform_plan(num_steps, beams, width)

    return Method(
        plan=Sized(plan, width),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.best_child if temperature == 0 else selection.softmax_child(temperature),
        name="svdd",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return svdd(reward, width=3, beams=2)
