"""BFS: breadth-first search by resampling beams (Zhang et al. 2025, arXiv 2505.23614)."""

from collections.abc import Sequence

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, positive
from ..core.resample import systematic
from ..core.value import posterior_mean

__all__ = ["bfs"]


def bfs(
    reward: Reward,
    beams: int = 4,
    looks: Sequence[float] = (0.25, 0.5, 0.75),
    tau: float = 1.0,
    zscore: bool = True,
    keep: int = 1,
    *,
    value: Value = posterior_mean,
) -> Method:
    """BFS: at a few looks beams are copied in proportion to softmax(tau v), and the best one is returned.

    Beam k goes on floor(K p_k) or one more times, p = softmax(tau v) over the K beams; the
    clean end takes the best. At tau 0 nothing is copied and it is best-of-K; at a large tau the best beam alone goes
    on. Unlike steering by a potential it forgets its weights: it searches, and estimates no law.

    The published code rounds K p_k, so that beams do not sum to K, copies share the next sample, and values are those
    of the level before; here the draw is systematic, and the values are the copied samples' own. There tau also follows
    the noise schedule; here it is the same at each look.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: K, throughout (12 there).
        looks: shares of the steps after which to look, in (0, 1).
        tau: at least 0; in 1 / standard deviations of the values with `zscore`, in 1 / units of the reward without.
        zscore: standardise the values over the group first.
        keep: how many to return, at most `beams`.
        value: how a beam's final reward is estimated.

    Raises:
        ValueError: where keep exceeds beams, for looks outside (0, 1), or a tau below 0.
    """
    if positive("keep", keep) > positive("beams", beams):
        raise ValueError(f"keep={keep} exceeds beams={beams}; take at least as many as you keep")
    if outside := [share for share in looks if not 0 < share < 1]:
        raise ValueError(f"looks={outside} are outside (0, 1); they are shares of the steps")
    if not 0 <= tau < float("inf"):
        raise ValueError(f"tau={tau} must be at least 0 and finite")

    def plan(beams: int, num_steps: int) -> Plan:
        at = {max(1, int(share * num_steps + 1e-9)) for share in looks}
        idle = num_steps - 1
        score = (*(level in at for level in range(1, num_steps)), True)
        return Plan(beams, (1,) * num_steps, (*(beams,) * idle, min(keep, beams)), score)

    copies = selection.draws(1 / tau if tau else 1e300, zscore, systematic)
    return Method(
        plan=Sized(plan, beams),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.at_clean_end(selection.top_k(), before=copies),
        name="bfs",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return bfs(reward, beams=4, keep=2)
