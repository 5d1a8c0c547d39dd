"""DSearch-R: dynamic search with replacement (Li et al. 2025, arXiv 2503.02039)."""

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Coins, Plan, Search, flip, share, uniform_plan
from ..core.value import posterior_mean

__all__ = ["dsearch_r"]


def dsearch_r(
    reward: Reward,
    beams: int = 2,
    rows_per_step: int = 4,
    rate: float = 0.5,
    temperature: float = 1.0,
    zscore: bool = True,
    search: Search = "exponential",
    coins: Coins = 0,
    *,
    value: Value = posterior_mean,
) -> Method:
    """DSearch-R: no beam is pruned; the worst are replaced by copies of the rest.

    At a searching step every beam draws `rows_per_step // beams` children and keeps the best; then the worst
    floor(rate * beams) beams become draws from softmax(value / temperature) over the others. At the other steps every
    beam takes one plain step. All beams are returned, best first.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: beams per prompt, throughout; the paper's command has 34.
        rows_per_step: network rows per prompt at a searching step, at least `beams`.
        rate: share of the beams replaced at a searching step; `rate * beams` must reach 1. The paper takes 0.01 to
            0.05 of many beams; of few, one is replaced at a time.
        temperature: of the softmax; in standard deviations of the values with `zscore`, in the reward's units without.
        zscore: standardise the values over the group first. False is the paper's raw softmax, which is near uniform
            for aesthetic scores and near argmax for kilobytes.
        search: the search schedule: all, uniform, linear or exponential.
        coins: a seed, or recorded uniforms, of the search schedule.
        value: how a child's final reward is estimated.

    Raises:
        ValueError: where the rate replaces no beam, or beams exceed the rows per step.
    """
    width = share(rows_per_step, beams)
    selection.replaced(rate, beams)
    replace = selection.replace_worst(rate, temperature, zscore, at_least=1)

    def plan(size: int, num_steps: int) -> Plan:
        """By its beams less one, for it takes two at least, of the same width."""
        return uniform_plan(num_steps, size + 1, width, flip(search, num_steps, coins))

    return Method(
        plan=Sized(plan, beams - 1),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.chain(selection.best_child, replace),
        name="dsearch_r",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return dsearch_r(reward, beams=4, rows_per_step=8, rate=0.25, search="all")
