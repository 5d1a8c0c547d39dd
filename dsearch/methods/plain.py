"""Plain sampling."""

from ..core import potential, selection
from ..core.contract import Method, Reward
from ..core.plan import uniform_plan
from ..core.value import posterior_mean

__all__ = ["plain"]


def plain(reward: Reward, beams: int = 1) -> Method:
    """The pretrained model alone: `beams` samples a prompt, rewarded once at the end, none dropped.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: samples a prompt.
    """
    return Method(
        plan=lambda num_steps: uniform_plan(num_steps, beams, search=[False] * (num_steps - 1)),
        reward=reward,
        value=posterior_mean,
        potential=potential.none,
        select=selection.top_k(),
        name="plain",
        sized=lambda size: plain(reward, size),
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return plain(reward, beams=2)
