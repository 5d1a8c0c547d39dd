"""DSearch: dynamic search (Li et al. 2025, arXiv 2503.02039)."""

from collections.abc import Sequence
from functools import partial

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Coins, Drop, Plan, Search, dsearch_plan
from ..core.value import posterior_mean

__all__ = ["dsearch"]


def dsearch(
    reward: Reward,
    beams: int = 4,
    keep: int = 1,
    rows_per_step: int = 4,
    drop: Drop | Sequence[int] = "exponential",
    search: Search | Sequence[bool] = "exponential",
    coins: Coins = 0,
    max_width: int | None = None,
    *,
    value: Value = posterior_mean,
) -> Method:
    """DSearch: many beams with few children early, few beams with many children late, at constant rows per step.

    At a searching step every beam draws `rows_per_step // alive` children, valued by the reward of their posterior
    mean; the best child of each beam is kept, then the beams are pruned to the drop schedule b(t). At the other steps
    every beam takes one plain step, which costs one row. The clean step prunes to `keep`.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: beams per prompt at x_T.
        keep: images per prompt to return.
        rows_per_step: network rows per prompt at a searching step, at least `beams`; the paper's C.
        drop: the drop schedule: exponential, linear, quadratic, sigmoid or none; or the beams alive after each step
            but the last.
        search: the search schedule, the probability that a step searches: all, uniform, linear or exponential; or
            whether each step but the last does.
        coins: a seed, or recorded uniforms, of the search schedule: the plan is drawn before the run.
        max_width: most children per beam; 1 never branches.
        value: how a child's final reward is estimated: the posterior mean's, or the paper's `value.lookahead`.

    Raises:
        ValueError: where keep exceeds beams, or beams exceed the rows per step.
    """

    def plan(rows: int, num_steps: int) -> Plan:
        """At another number of rows per step, with beams in proportion."""
        start, end = beams, keep
        if rows != rows_per_step:
            start = min(rows, max(keep, round(rows * beams / rows_per_step)))
            end = min(keep, start)
        return dsearch_plan(num_steps, start, end, rows, drop, search, coins, max_width)

    method = Method(
        plan=Sized(plan, rows_per_step) if isinstance(drop, str) else partial(plan, rows_per_step),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.chain(selection.best_child, selection.top_k()),
        name="dsearch",
    )
    named = isinstance(drop, str) and isinstance(search, str)  # else they fit one number of steps only
    return method.checked() if named else method


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return dsearch(reward, beams=3, keep=1, rows_per_step=6, search="uniform", coins=3)
