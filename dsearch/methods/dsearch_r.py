"""DSearch-R: dynamic search with replacement (Li et al. 2025, arXiv 2503.02039)."""

from ..core import potential, selection
from ..core.contract import Method, Reward, Value
from ..core.plan import Coins, Search, flip, share, uniform_plan
from ..core.value import posterior_mean

__all__ = ["dsearch_r"]


def dsearch_r(
    reward: Reward,
    beams: int = 34,
    budget: int = 170,
    rate: float = 0.03,
    temperature: float = 1.0,
    zscore: bool = True,
    search: Search = "exponential",
    coins: Coins = 0,
    *,
    value: Value = posterior_mean,
) -> Method:
    """DSearch-R: no beam is pruned; the worst are replaced by copies of the rest.

    At a searching step every beam draws `budget // beams` children and keeps the best; then the worst
    floor(rate * beams) beams become draws from softmax(value / temperature) over the others. At the other steps every
    beam takes one plain step. All beams are returned, best first.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: beams a prompt, throughout.
        budget: rows a step, at least `beams`.
        rate: share of the beams replaced at a searching step; the paper takes 0.01 to 0.05. `rate * beams` must
            reach 1.
        temperature: of the softmax; in standard deviations of the values with `zscore`, in the reward's units without.
        zscore: standardise the values over the group first. False is the paper's raw softmax, which is near uniform
            for aesthetic scores and near argmax for kilobytes.
        search: the search schedule: all, uniform, linear or exponential.
        coins: a seed, or recorded uniforms, of the search schedule.
        value: how a child's final reward is estimated.

    Raises:
        ValueError: where the rate replaces no beam, or beams exceed the budget.
    """
    width = share(budget, beams)
    selection.replaced(rate, beams)
    replace = selection.replace_worst(rate, temperature, zscore)

    def resized(size: int) -> Method:
        """By its beams, 2 or more, of the same width; few beams are replaced one at a time."""
        own = max(rate, 1 / (size + 1))
        return dsearch_r(reward, size + 1, (size + 1) * width, own, temperature, zscore, search, coins, value=value)

    return Method(
        plan=lambda num_steps: uniform_plan(num_steps, beams, width, flip(search, num_steps, coins)),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.chain(selection.best_child, replace),
        name="dsearch_r",
        sized=resized,
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return dsearch_r(reward, beams=4, budget=8, rate=0.25, search="all")
