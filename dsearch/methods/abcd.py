"""ABCD: adaptive bi-directional cyclic diffusion (Lee et al. 2025, arXiv 2505.14036)."""

from collections.abc import Sequence

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized
from ..core.plan import Plan, positive
from ..core.value import posterior_mean
from ..core.watch import Unchanged

__all__ = ["abcd"]


def abcd(
    reward: Reward,
    n: int = 2,
    keep: int = 1,
    copies: int = 1,
    cycles: int = 1,
    levels: Sequence[float] = (0.25, 0.5, 0.75),
    patience: int = 1,
) -> Method:
    """Adaptive bi-directional cyclic diffusion: the best samples so far are noised to several levels at once, come down
    again, and the best of old and new are kept, until a cycle changes nothing.

    n runs give `keep` samples. In a cycle each of them becomes `copies` at every one of `levels`, which come down by
    plain steps; the best `keep` of these and of the old ones stay. Which levels pay is so found out each time: copies
    of late levels polish, those of early ones explore. Old samples stay in the pool, so that
    the best reward never falls; a prompt stops after `patience` cycles without a change, so that the bill is the most
    that is spent. No cycle is best-of-N; with the level 0 alone every copy is a fresh run, and it is random search.

    Args:
        reward: `(images, prompts) -> [N]`.
        n: runs from pure noise.
        keep: samples that are kept and returned.
        copies: of each sample at each level.
        cycles: at most; 0 or more.
        levels: shares of the steps, in [0, 1); 0 is pure noise.
        patience: cycles without a change after which a prompt stops.

    Raises:
        ValueError: where keep exceeds n, or for no levels or one outside [0, 1).
    """
    if positive("keep", keep) > positive("n", n):
        raise ValueError(f"keep={keep} exceeds n={n}; run at least as many as you keep")
    positive("copies", copies), positive("cycles", cycles, at_least=0)
    outside = [share for share in levels if not 0 <= share < 1]
    if outside or not levels:
        raise ValueError(f"levels={list(levels)}; give shares of the steps in [0, 1), one or more")

    def plan(n: int, num_steps: int) -> Plan:
        idle, kept = num_steps - 1, min(keep, n)
        away = (num_steps, *(int(share * num_steps + 1e-9) for share in levels for _ in range(copies)))
        return Plan(
            start=n,
            width=(*(1,) * num_steps, *(len(away),) * cycles),
            keep=(*(n,) * idle, *(kept,) * (1 + cycles)),
            score=(*(False,) * idle, *(True,) * (1 + cycles)),
            route=(*range(1, num_steps + 1), *(away,) * cycles),
        )

    return Method(
        plan=Sized(plan, n),
        reward=reward,
        value=posterior_mean,
        potential=potential.none,
        select=selection.top_k(),
        name="abcd",
        watch=(Unchanged(patience),),
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return abcd(reward, n=3, keep=2, copies=2, cycles=2, levels=(0.2, 0.7), patience=3)
