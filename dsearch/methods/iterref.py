"""IterRef: iterative refinement by Metropolis steps (arXiv 2511.05562)."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange

from ..core import potential
from ..core.contract import Choice, Reward, Rng, Scores, Selector, precise, take
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, positive
from ..core.rng import move
from ..core.value import posterior_mean

__all__ = ["iterref"]


def iterref(
    reward: Reward,
    beams: int = 1,
    levels: Sequence[float] = (0.5, 0.7, 0.9),
    tries: int = 8,
    back: float = 0.1,
    alpha: float = 0.1,
    *,
    value: Value = posterior_mean,
) -> Method:
    """IterRef: at some levels, a sample is noised and denoised again to where it was, and taken by a Metropolis rule.

    A try goes back by the share `back` of the steps and down again by plain steps, and is accepted with probability
    min(1, exp((v' - v) / alpha)). Noising and an exact kernel after it are reversible for the level's own law p_i, so
    that each try leaves p_i(x) exp(v(x) / alpha) as it is, and tries alone approach it, without weights. A large alpha
    accepts all, which leaves the model's law; a small one climbs; no try is plain sampling. The number of tries is
    fixed: to go on until one is accepted would favour samples that are hard to leave. What the paper does besides, with
    pools of proposals of which one is drawn, tries several at once and changes no law.

    Args:
        reward: `(images, prompts) -> [N]`.
        beams: independent samples per prompt.
        levels: shares of the steps at which to try, in (0, 1]; 1 is the clean end.
        tries: at each level; 0 or more.
        back: share of the steps by which a try goes back.
        alpha: temperature, in units of the reward.
        value: how a sample's final reward is estimated.

    Raises:
        ValueError: for shares outside (0, 1], or a temperature that is not above 0.
    """
    positive("beams", beams), positive("tries", tries, at_least=0)
    if outside := [share for share in (*levels, back) if not 0 < share <= 1]:
        raise ValueError(f"levels and back have {outside[0]}, outside (0, 1]; they are shares of the steps")

    def plan(beams: int, num_steps: int) -> Plan:
        num_steps = int(num_steps)  # of numpy's, comparisons are numpy's too
        at = {max(1, int(share * num_steps + 1e-9)) for share in levels}
        moves: list[tuple[int, bool, int | tuple[int, int]]] = []
        for level in range(1, num_steps + 1):
            moves.append((1, level == num_steps, level))
            if level in at:
                away = (level, max(0, level - max(1, int(back * num_steps + 1e-9))))
                moves += [(2, True, away)] * tries
        width, score, route = zip(*moves, strict=True)
        return Plan(beams, width, (beams,) * len(moves), score, route)

    return Method(
        plan=Sized(plan, beams),
        reward=reward,
        value=value,
        potential=potential.none,
        select=metropolis(alpha),
        name="iterref",
    ).checked()


def metropolis(alpha: float) -> Selector:
    """Of a beam and the child that it proposes, the child with probability min(1, exp((v' - v) / alpha))."""
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha={alpha} must be above 0 and finite")

    def select(scores: Scores, keep: int, rng: Rng) -> Choice:
        here = torch.arange(keep, device=scores.value.device).expand(len(scores.value), -1) * scores.width
        log_w = take(scores.log_w, here)  # a beam's and its child's are one
        if scores.width == 1:  # the descent's own clean end
            return Choice(here, log_w, torch.zeros_like(log_w))
        old, new = rearrange(precise(scores.value), "b (k w) -> w b k", w=2)
        u = move(rng.uniform("accept", scores.level, old.shape), old.device)
        return Choice(here + (alpha * u.log() < new - old), log_w, torch.full_like(log_w, torch.nan))

    return select


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return iterref(reward, beams=2, levels=(0.5, 1.0), tries=2, back=0.4, alpha=0.5)
