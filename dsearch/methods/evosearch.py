"""EvoSearch: evolution along the denoising path (He et al. 2025, arXiv 2505.17618)."""

from collections.abc import Sequence

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized
from ..core.plan import Plan, positive
from ..core.value import posterior_mean

__all__ = ["evosearch"]


def evosearch(
    reward: Reward,
    population: int = 2,
    children: int = 1,
    elite: int = 1,
    levels: Sequence[float] = (0.0, 0.4, 0.6),
) -> Method:
    """EvoSearch: generations of samples, judged by their final reward, whose children branch off later and later.

    The first population are whole runs. At each of `levels`, in rising order, every elite has `children`, mutated
    there and run to the clean end, and the best `elite` of parents and children are the next parents. Early generations
    so explore, and late ones polish.

    The published code keeps the states of all runs at all levels, draws parents by tournaments, and mutates a state by
    adding the kernel's deviation, which inflates its variance. Here parents are the best so far, and a child is its
    parent's clean sample noised to the level by the forward kernel: a mutation that leaves the model's law as it is
    where nothing is chosen. No levels are best-of-N; level 0 alone is random search.

    Args:
        reward: `(images, prompts) -> [N]`.
        population: whole runs (14 to 42 there).
        children: of each elite, at each level.
        elite: samples that are kept, and returned (2 to 5 there).
        levels: shares of the steps, in [0, 1), rising.

    Raises:
        ValueError: where elite exceeds population, or for levels that do not rise within [0, 1).
    """
    if positive("elite", elite) > positive("population", population):
        raise ValueError(f"elite={elite} exceeds population={population}; run at least as many as you keep")
    positive("children", children)
    if any(not 0 <= share < 1 for share in levels) or list(levels) != sorted(levels):
        raise ValueError(f"levels={list(levels)}; give shares of the steps in [0, 1) that rise")

    def plan(population: int, num_steps: int) -> Plan:
        idle, kept, born = num_steps - 1, min(elite, population), len(levels)
        away = [(num_steps, *[int(share * num_steps + 1e-9)] * children) for share in levels]
        return Plan(
            start=population,
            width=(*(1,) * num_steps, *(1 + children,) * born),
            keep=(*(population,) * idle, *(kept,) * (1 + born)),
            score=(*(False,) * idle, *(True,) * (1 + born)),
            route=(*range(1, num_steps + 1), *away),
        )

    return Method(
        plan=Sized(plan, population),
        reward=reward,
        value=posterior_mean,
        potential=potential.none,
        select=selection.top_k(),
        name="evosearch",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return evosearch(reward, population=3, children=2, elite=2, levels=(0.2, 0.7))
