"""CoDe: blockwise control (Singh et al. 2025, arXiv 2502.00968)."""

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, positive
from ..core.value import posterior_mean

__all__ = ["code"]


def code(reward: Reward, width: int = 4, block: int = 5, beams: int = 1, *, value: Value = posterior_mean) -> Method:
    """CoDe: every beam runs `width` ways through a block of steps, and the best of them goes on.

    Blocks of 1 are SVDD; one block of all steps is best-of-N from a common x_T. The network rows are SVDD's, the
    decodes and rewards a `block`-th of them. The last, clean step takes one child.

    Args:
        reward: `(images, prompts) -> [N]`.
        width: ways through a block, the paper's N.
        block: steps from one choice to the next, the paper's B.
        beams: independent samples per prompt.
        value: how the final reward of a way is estimated at the end of its block.
    """
    positive("width", width), positive("block", block), positive("beams", beams)

    def plan(width: int, num_steps: int) -> Plan:
        idle = num_steps - 1
        ends = {min(first + block, idle) - 1 for first in range(0, idle, block)}
        return Plan(
            start=beams,
            width=(*(width if i % block == 0 else 1 for i in range(idle)), 1),
            keep=(*(beams if i in ends else beams * width for i in range(idle)), beams),
            score=(*(i in ends for i in range(idle)), False),
        )

    return Method(
        plan=Sized(plan, width),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.best_of_block,
        name="code",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return code(reward, width=3, block=2, beams=2)
