"""Plain sampling."""

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized
from ..core.plan import Plan, uniform_plan
from ..core.value import posterior_mean

__all__ = ["plain"]


def plain(reward: Reward, beams: int = 4) -> Method:
    """The pretrained model alone: `beams` samples per prompt, rewarded once at the end, none dropped.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: samples per prompt.
    """

    def plan(beams: int, num_steps: int) -> Plan:
        return uniform_plan(num_steps, beams, search=[False] * (num_steps - 1))

    return Method(
        plan=Sized(plan, beams),
        reward=reward,
        value=posterior_mean,
        potential=potential.none,
        select=selection.top_k(),
        name="plain",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return plain(reward, beams=2)
