"""Beam search."""

from ..core import potential, selection
from ..core.contract import Method, Reward, Value
from ..core.plan import Plan
from ..core.value import posterior_mean

__all__ = ["beam"]


def beam(reward: Reward, beams: int = 4, width: int = 2, *, value: Value = posterior_mean) -> Method:
    """Beam search: of all `beams * width` children of a step the best `beams` live on, whoever their parents are.

    The clean step takes one child a beam. All beams are returned, best first.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: beams a prompt, throughout.
        width: children a beam.
        value: how a child's final reward is estimated.
    """

    def plan(num_steps: int) -> Plan:
        idle = num_steps - 1
        return Plan(beams, (*(width,) * idle, 1), (beams,) * num_steps, (*(True,) * idle, False))

    return Method(
        plan=plan,
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.top_k(),
        name="beam",
        sized=lambda size: beam(reward, size, width, value=value),
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return beam(reward, beams=3)
