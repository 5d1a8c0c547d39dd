"""Random noise search (Ma et al. 2025, arXiv 2501.09732)."""

from dataclasses import dataclass

from torch import Tensor

from ..core import potential, selection
from ..core.contract import Reward, Rng
from ..core.method import Method, Rounds, Sized
from ..core.plan import Plan, positive
from ..core.value import posterior_mean

__all__ = ["random_search"]


def random_search(reward: Reward, candidates: int = 2, rounds: int = 2, keep: int = 1) -> Method:
    """Rounds of whole runs, each from fresh noise; the `keep` best images of all are returned.

    It is best-of-N with N = candidates * rounds, in the memory of `candidates`, and with a `target` it ends as soon as
    one is good enough.

    Args:
        reward: `(images, prompts) -> [N]`.
        candidates: runs per round, side by side.
        rounds: one after another.
        keep: images per prompt to return, at most `candidates`.

    Raises:
        ValueError: where keep exceeds candidates.
    """
    return rounds_of_runs("random_search", reward, candidates, keep, Rounds(rounds, Fresh, True))


def rounds_of_runs(name: str, reward: Reward, candidates: int, keep: int, rounds: Rounds) -> Method:
    """Best-of-N over rounds that differ in their noise."""
    if positive("keep", keep) > positive("candidates", candidates):
        raise ValueError(f"keep={keep} exceeds candidates={candidates}; run at least as many a round as you keep")
    positive("rounds", rounds.count)

    def plan(candidates: int, num_steps: int) -> Plan:
        n, idle = candidates * rounds.count, num_steps - 1
        return Plan(n, (1,) * num_steps, (*(n,) * idle, min(keep, candidates)), (*(False,) * idle, True))

    select = selection.top_k(independent=rounds.independent)
    return Method(
        Sized(plan, candidates), reward, posterior_mean, potential.none, select, name=name, rounds=rounds
    ).checked()


@dataclass
class Fresh:
    """Noise of its own for every round."""

    rng: Rng
    round: int = 0

    def next(self, rewards: Tensor | None) -> Rng:
        """The next round's noise, whatever the rewards."""
        self.round += 1
        return self.rng.under(f"round {self.round}")


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return random_search(reward, candidates=2, rounds=2, keep=2)
