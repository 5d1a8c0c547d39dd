"""Search over paths (Ma et al. 2025, arXiv 2501.09732)."""

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, positive
from ..core.value import posterior_mean

__all__ = ["sop"]


def sop(
    reward: Reward,
    width: int = 3,
    beams: int = 1,
    rounds: int = 1,
    start: float = 0.89,
    back: float = 0.78,
    forth: float = 0.81,
    *,
    value: Value = posterior_mean,
) -> Method:
    """Search over paths: beams go nearly all the way down; `width` copies of each are noised far back, come down a
    little further than they were, and the best of all copies go on.

    The descent stops at the share `start` of the steps. In each round a beam becomes `width` copies, which go back by
    the share `back`, down by `forth`, and are valued there by the reward of their posterior mean; the best `beams` of
    all of them are the next round's. After the rounds
    the beams go down to the clean end; the best is returned first. Samplers without noise (eta 0) are what the paper
    takes, and where all that differs is drawn on the way back; any other works too. Legs that begin at pure noise and
    end clean (start, back and forth 1) forget where they came from: one round of them is best-of-N.

    Args:
        reward: `(images, prompts) -> [N]`.
        width: copies of a beam in a round.
        beams: paths, the paper's N.
        rounds: 1 or more.
        start: share of the steps before the first round (down to a noise of 0.11 there).
        back: share of the steps by which copies go back (0.78 there, of the noise).
        forth: share of the steps that they come down again, at least `back` (0.81 there).
        value: how a copy's final reward is estimated.

    Raises:
        ValueError: for shares outside (0, 1], or copies that come down by less than they went back.
    """
    positive("beams", beams), positive("rounds", rounds)
    for name, share in (("start", start), ("back", back), ("forth", forth)):
        if not 0 < share <= 1:
            raise ValueError(f"{name}={share} is outside (0, 1]; it is a share of the steps")
    if forth < back:
        raise ValueError(f"forth={forth} is below back={back}, so that paths would never end; raise forth")

    def plan(width: int, num_steps: int) -> Plan:
        num_steps = int(num_steps)  # of numpy's, comparisons are numpy's too

        def steps(share: float) -> int:
            return max(1, int(share * num_steps + 1e-9))

        level = steps(start)
        moves = [(1, beams, to == num_steps, to) for to in range(1, level + 1)]
        for _ in range(rounds):
            to = max(0, level - steps(back))
            level = min(num_steps, max(to + 1, to + steps(forth)))
            n = beams * width
            moves += [(width, n, False, to), *((1, n, False, at) for at in range(to + 1, level))]
            moves.append((1, beams, True, level))
        moves += [(1, beams, to == num_steps, to) for to in range(level + 1, num_steps + 1)]
        wide, keep, score, route = zip(*moves, strict=True)
        return Plan(beams, wide, keep, score, route)

    return Method(
        plan=Sized(plan, width),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.top_k(),
        name="sop",
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return sop(reward, width=2, beams=2, rounds=2, start=0.7, back=0.5, forth=0.7)
