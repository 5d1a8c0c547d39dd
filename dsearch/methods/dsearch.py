"""DSearch: dynamic search (Li et al. 2025, arXiv 2503.02039)."""

from ..core import potential, selection, value
from ..core.contract import Method, Reward
from ..core.plan import Coins, Drop, Search, dsearch_plan

__all__ = ["dsearch"]


def dsearch(
    reward: Reward,
    beams: int = 5,
    keep: int = 1,
    budget: int = 25,
    drop: Drop = "exponential",
    search: Search = "exponential",
    coins: Coins = 0,
) -> Method:
    """DSearch: many beams with few children early, few beams with many children late, at a constant budget.

    At a searching step every beam draws `budget // alive` children, valued by the reward of their posterior mean; the
    best child of each beam is kept, then the beams are pruned to the drop schedule b(t). At the other steps every beam
    takes one plain step, which costs one row. The clean step prunes to `keep`.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: beams a prompt at x_T.
        keep: images a prompt to return.
        budget: rows a step, at least `beams`.
        drop: the drop schedule: exponential, linear, quadratic, sigmoid or none.
        search: the search schedule, the probability that a step searches: all, uniform, linear or exponential.
        coins: a seed, or recorded uniforms, of the search schedule: the plan is drawn before the run.

    Raises:
        ValueError: where keep exceeds beams, or beams exceed the budget.
    """
    method = Method(
        plan=lambda num_steps: dsearch_plan(num_steps, beams, keep, budget, drop, search, coins),
        reward=reward,
        value=value.posterior_mean,
        potential=potential.none,
        select=selection.chain(selection.best_child, selection.top_k()),
        name="dsearch",
    )
    method.plan(1)  # bad arguments are refused here, not when the search begins
    return method


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return dsearch(reward, beams=3, keep=1, budget=6, search="uniform", coins=3)
