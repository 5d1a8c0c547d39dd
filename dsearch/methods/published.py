"""DSearch, DSearch-R and SVDD-PM as the published image script runs them."""

from ..core import plan as plans
from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method
from ..core.plan import Coins, Drop, Plan, Search, positive
from ..core.value import posterior_mean

__all__ = ["published"]


def published(
    reward: Reward,
    bs: int = 12,
    duplicate_size: int = 5,
    w: int = 1,
    oversamplerate: int = 1,
    search_schedule: Search = "all",
    drop_schedule: Drop = "none",
    replacerate: float = 0.0,
    coins: Coins = 0,
) -> Method:
    """The published script's flags, and exactly its plan, pooling, ties and order: the same noise, coins and draws
    give the same choices.

    It differs from the paper's own form (`dsearch`, `dsearch_r`, `svdd`) in that all prompts share one pool (beam k
    starts with prompt k mod P) and compete; that a step which does not search still draws and scores
    `duplicate_size` children; and that a searching step with `alive` of B beams left draws
    int(duplicate_size * w * max(1, B / alive)). Without a drop schedule the pool falls to `bs` beams after the first
    step. The last step neither scores nor drops. Its bill is the whole pool's.

    Args:
        reward: `(images, prompts) -> [N]`.
        bs: beams that the drop schedule falls to; with few steps the pool ends above it, for the last never drops.
        duplicate_size: children per beam at every step.
        w: how many times as many at a searching step.
        oversamplerate: the pool starts with B = bs * oversamplerate beams.
        search_schedule: all, uniform, linear or exponential.
        drop_schedule: exponential, linear, quadratic, sigmoid, or none: `bs` beams from the second step on.
        replacerate: DSearch-R's rate, with a raw softmax at temperature 1; 0 replaces nothing.
        coins: a seed, or the recorded uniforms: one per step but the last, drawn for every schedule.

    Raises:
        ValueError: where a replacement is asked for together with a drop schedule or an oversampled pool, or the rate
            replaces no beam.
    """
    keep, beams = positive("bs", bs), bs * positive("oversamplerate", oversamplerate)
    positive("duplicate_size", duplicate_size), positive("w", w)
    if replacerate:
        if drop_schedule != "none":
            raise ValueError(
                f"replacerate={replacerate} with drop_schedule={drop_schedule!r}: "
                "DSearch-R drops no beam; set one of the two to its default"
            )
        if oversamplerate > 1:
            raise ValueError(
                f"replacerate={replacerate} with oversamplerate={oversamplerate}: the script asserts that one of the "
                "two is at its default; raise bs instead"
            )
        selection.replaced(replacerate, beams)
        # The script truncates as floats fall: 0.29 of 100 beams is 28 there, and 29 to `replace_worst`.
        n = max(1, int(replacerate * beams))
        narrow = selection.replace_worst(n / beams, temperature=1.0, zscore=False)
    else:
        narrow = selection.top_k(sort=True)

    def plan(num_steps: int) -> Plan:
        # The script's list of sizes without a schedule is `bs` throughout.
        start = keep if drop_schedule == "none" else beams
        kept = plans.drop_schedule(drop_schedule, start, keep, num_steps)
        alive = (beams, *kept)
        wide = (
            int(duplicate_size * w * max(1, beams / a)) if searches else duplicate_size
            for a, searches in zip(alive, plans.flip(search_schedule, num_steps, coins), strict=False)
        )
        idle = num_steps - 1
        return Plan(beams, (*wide, 1), (*kept, alive[-1]), (*(True,) * idle, False))

    return Method(
        plan=plan,
        reward=reward,
        value=posterior_mean,
        potential=potential.none,
        select=selection.chain(selection.best_child, narrow),
        pool=True,
        name="published",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return published(reward, bs=4, duplicate_size=2, w=2, oversamplerate=2, drop_schedule="exponential")
