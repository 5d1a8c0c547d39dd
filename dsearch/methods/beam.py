"""Beam search."""

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan
from ..core.value import posterior_mean

__all__ = ["beam"]


def beam(reward: Reward, beams: int = 2, width: int = 2, *, value: Value = posterior_mean) -> Method:
    """Beam search: of all `beams * width` children of a step the best `beams` live on, whoever their parents are.

    The clean step takes one child per beam. All beams are returned, best first.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: beams per prompt, throughout.
        width: children per beam.
        value: how a child's final reward is estimated.
    """

    def plan(beams: int, num_steps: int) -> Plan:
        idle = num_steps - 1
        return Plan(beams, (*(width,) * idle, 1), (beams,) * num_steps, (*(True,) * idle, False))

    return Method(
        plan=Sized(plan, beams),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.top_k(),
        name="beam",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return beam(reward, beams=3)
