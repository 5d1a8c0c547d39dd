"""RBF: rollover budget forcing (Kim et al. 2025, arXiv 2503.19385)."""

from torch import Tensor

from ..core import potential, selection
from ..core.contract import Method, Reward, Scores, Value
from ..core.plan import uniform_plan
from ..core.value import posterior_mean

__all__ = ["rbf"]


def rbf(reward: Reward, width: int = 4, beams: int = 1, *, value: Value = posterior_mean) -> Method:
    """Rollover budget: a beam draws children one by one until one is better than it was itself.

    What is then left of the step's `width` is carried forward, so that later steps may draw more; where no child is
    better, the best goes on. At the first step, where the parent was never valued, one child is enough. The run spends
    at most its bill. Children come one after another by definition, beams and prompts side by side, so a run takes
    longer than the bill of a method that draws them at once. The last, clean step takes one child.

    Args:
        reward: `(images, prompts) -> [N]`.
        width: children a beam and step on average, at most.
        beams: independent samples a prompt.
        value: how a child's final reward is estimated.
    """
    return Method(
        plan=lambda num_steps: uniform_plan(num_steps, beams, width),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.best_child,
        name="rbf",
        sized=lambda size: rbf(reward, size, beams, value=value),
        enough=improved,
    ).checked()


def improved(scores: Scores) -> Tensor:
    """`[B, N]`: the child is better than its parent, or its parent was never valued."""
    return (scores.value > scores.parent) | scores.parent.isnan()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return rbf(reward, width=3, beams=2)
