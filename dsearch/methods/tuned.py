"""Search whose widths are tuned by a pilot run."""

from collections.abc import Mapping, Sequence

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, share
from ..core.tuning import allocate
from ..core.value import posterior_mean

__all__ = ["tuned"]


def tuned(
    reward: Reward, gain: Sequence[float], rows_per_step: int = 4, beams: int = 1, *, value: Value = posterior_mean
) -> Method:
    """Children where they pay: widths that make the most of the rows, given what a step's choice is worth.

    `gain[t]` is what one standard deviation among the siblings of step t is worth in final reward; it comes from
    `dsearch.pilot(denoiser, reward, prompts).gain`. Steps whose values say little about the end get one child and are
    not scored. Of all children the best `beams` live on. The gains of a pilot of another number of steps are stretched
    to this one's. The last, clean step takes one child.

    Args:
        reward: `(images, prompts) -> [N]`.
        gain: one number per step but the last, at least 0.
        rows_per_step: network rows per prompt and step on average, at least `beams`; the run spends at most
            `rows_per_step * T`.
        beams: beams per prompt, throughout.
        value: how a child's final reward is estimated; the pilot's.

    Raises:
        ValueError: where beams exceed the rows per step, or no step gains anything.
    """
    share(rows_per_step, beams)
    if isinstance(gain, Mapping) or not len(gain):
        raise ValueError(f"gain={gain} names no step; give one number per step but the last")
    allocate(gain, len(gain))  # refuses bad gains

    def plan(rows: int, num_steps: int) -> Plan:
        start, idle = min(beams, rows), num_steps - 1
        width = allocate(stretched(gain, idle), rows * num_steps // start - 1)  # one per beam goes to x_T
        return Plan(start, (*width, 1), (start,) * num_steps, (*(w > 1 for w in width), False))

    return Method(
        plan=Sized(plan, rows_per_step),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.top_k(),
        name="tuned",
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
    return tuned(reward, gain=[0.0, 1.0, 2.0, 2.0, 1.0], rows_per_step=4, beams=2)
