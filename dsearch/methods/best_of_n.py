"""Best-of-N: plain samples, of which the best are returned."""

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized
from ..core.plan import Plan, positive
from ..core.value import posterior_mean

__all__ = ["best_of_n"]


def best_of_n(reward: Reward, n: int = 4, keep: int = 1) -> Method:
    """Plain sampling of n images per prompt, of which the `keep` with the highest reward are returned.

    Args:
        reward: `(images, prompts) -> [N]`.
        n: samples per prompt.
        keep: how many to return, at most n.

    Raises:
        ValueError: where keep exceeds n.
    """
    if positive("keep", keep) > positive("n", n):
        raise ValueError(f"keep={keep} exceeds n={n}; draw at least as many as you keep")

    def plan(n: int, num_steps: int) -> Plan:
        idle = num_steps - 1
        return Plan(n, (1,) * num_steps, (*(n,) * idle, min(keep, n)), (*(False,) * idle, True))

    return Method(
        plan=Sized(plan, n),
        reward=reward,
        value=posterior_mean,
        potential=potential.none,
        select=selection.top_k(independent=True),
        name="best_of_n",
    )


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return best_of_n(reward, n=4, keep=2)
