"""Search whose widths are tuned by a pilot run."""

from collections.abc import Sequence

from ..core import potential, selection
from ..core.contract import Method, Reward, Value
from ..core.plan import Plan, share
from ..core.tuning import allocate
from ..core.value import posterior_mean

__all__ = ["tuned"]


def tuned(
    reward: Reward, gain: Sequence[float], budget: int = 8, beams: int = 1, *, value: Value = posterior_mean
) -> Method:
    """Children where they pay: widths that make the most of the rows, given what a step's choice is worth.

    `gain[t]` is what one standard deviation among the siblings of step t is worth in final reward; it comes from
    `dsearch.pilot(denoiser, reward, prompts).gain`. Steps whose values say little about the end get one child and are
    not scored. Of all children the best `beams` live on. The gains of a pilot of another number of steps are stretched
    to this one's. The last, clean step takes one child.

    Args:
        reward: `(images, prompts) -> [N]`.
        gain: one number a step but the last, at least 0.
        budget: rows a step on average, at least `beams`; the run spends at most `budget * T`.
        beams: beams a prompt, throughout.
        value: how a child's final reward is estimated; the pilot's.

    Raises:
        ValueError: where beams exceed the budget, or no step gains anything.
    """
    share(budget, beams)
    allocate(gain, len(gain))  # refuses bad gains

    def plan(num_steps: int) -> Plan:
        idle = num_steps - 1
        width = allocate(stretched(gain, idle), budget * num_steps // beams - 1)  # one a beam goes to x_T
        return Plan(beams, (*width, 1), (beams,) * num_steps, (*(w > 1 for w in width), False))

    return Method(
        plan=plan,
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.top_k(),
        name="tuned",
        sized=lambda size: tuned(reward, gain, size, min(beams, size), value=value),
    ).checked()


def stretched(gain: Sequence[float], steps: int) -> list[float]:
    """The gains over another number of steps, read at the middle of each step by linear interpolation."""
    if steps == len(gain):
        return list(gain)
    found = []
    for t in range(steps):
        at = min(max((t + 0.5) / steps * len(gain) - 0.5, 0.0), len(gain) - 1.0)
        low = int(at)
        found.append(gain[low] + (at - low) * (gain[min(low + 1, len(gain) - 1)] - gain[low]))
    return found


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return tuned(reward, gain=[0.0, 1.0, 2.0, 2.0, 1.0], budget=4, beams=2)
