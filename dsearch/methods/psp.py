"""PSP: progressive seed pruning (Guimaraes and Perona 2026, arXiv 2607.21591)."""

from collections.abc import Sequence

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, positive, pruning_plan
from ..core.value import posterior_mean

__all__ = ["psp"]


def psp(
    reward: Reward,
    n: int = 4,
    drops: Sequence[tuple[float, int]] | None = None,
    beams: int | None = None,
    *,
    value: Value = posterior_mean,
) -> Method:
    """Progressive seed pruning: many seeds, the worse dropped as the run goes on; no beam ever branches.

    By default 2n seeds, n from a quarter of the steps on, n/2 from half of them on (the paper's 2N -> N -> N/2), of
    which the best final one is returned: the network rows of best-of-n, spent on twice as many seeds.

    Args:
        reward: `(images, prompts) -> [N]`.
        n: images of best-of-n at the same network rows.
        drops: any other schedule, as pairs (fraction of the steps, beams from there on), and its `beams` at x_T.
        beams: seeds, 2n by default.
        value: how a beam's final reward is estimated when it is judged.

    Raises:
        ValueError: where fractions do not rise or beams do not fall.
    """
    positive("n", n)
    own = [(0.25, n), (0.5, max(1, n // 2))] if drops is None else list(drops)
    seeds = 2 * n if beams is None else beams

    def plan(size: int, num_steps: int) -> Plan:
        """At the rows of best-of-`size`, all numbers in proportion."""
        shares = [(f, max(1, k * size // n)) for f, k in own]
        return pruning_plan(num_steps, max(1, seeds * size // n), shares)

    return Method(
        plan=Sized(plan, n),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.top_k(),
        name="psp",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return psp(reward, n=2)
