"""Choosing by comparisons: formats of tournaments, in plain integers, and a judge of pairs that plays them.

A format is a generator: given the scores of n candidates it yields rounds of pairs, is sent the share of a win that
the first of each pair got (1, 0, or 0.5 for a tie), and returns the ranking. The scores seed it, best first and equal
ones by row, and that order breaks its ties: the same answers give the same ranking, and permuting candidates whose
scores differ permutes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .contract import Reward
from .plan import positive

__all__ = [
    "Compare",
    "Format",
    "Outcome",
    "Pair",
    "Tournament",
    "bradley_terry",
    "by_reward",
    "elimination",
    "play",
    "strengths",
    "swiss",
    "tied_at_top",
    "tournament",
]

Pair = tuple[int, int, int]
"""Two candidates, and how often these two were asked about before: which game of their match it is."""

Rounds = Generator[list[Pair], list[float], list[int]]


@dataclass(frozen=True)
class Format:
    """The format of a tournament.

    Attributes:
        rounds: the scores of n candidates -> rounds of pairs, answered by shares of a win; it returns the ranking, best
            first.
        most: n -> the comparisons of n candidates at most.
    """

    rounds: Callable[[Sequence[float]], Rounds]
    most: Callable[[int], int]


Compare = Callable[[Tensor, Tensor, list[str], int], Tensor]
"""`(first [P, ...], second [P, ...], P prompts, game) -> [P]` shares of a win of the first, in [0, 1]."""


def elimination(best_of: int = 1) -> Format:
    """Whoever loses is out: n - 1 matches, of which the best seeds meet last.

    Args:
        best_of: games of a match, an odd number; a match ends when it is decided. More than 1 is of use with judges
            whose games differ.

    Raises:
        ValueError: for an even number.
    """
    if positive("best_of", best_of) % 2 == 0:
        raise ValueError(f"best_of={best_of} can end in a draw; take an odd number")

    def rounds(scores: Sequence[float]) -> Rounds:
        alive, out = _seeded(scores), list[int]()
        while len(alive) > 1:
            byes = 2 ** math.ceil(math.log2(len(alive))) - len(alive)  # the best rest, so that later rounds are full
            playing = alive[byes:]
            half = len(playing) // 2
            pairs = list(zip(playing[:half], playing[: half - 1 : -1], strict=True))  # the best against the worst
            leads = yield from _matches(pairs, best_of)
            lost = {(b if lead >= 0 else a) for (a, b), lead in zip(pairs, leads, strict=True)}  # a is the better seed
            out = [row for row in alive if row in lost] + out
            alive = [row for row in alive if row not in lost]
        return alive + out

    return Format(rounds, lambda n: best_of * (n - 1))


def swiss(rounds: int | None = None) -> Format:
    """Everyone plays every round against whom it has as many points as, and has not met; points rank.

    Args:
        rounds: at most n - 1 are played; None plays ceil(log2 n) + 1.
    """
    if rounds is not None:
        positive("rounds", rounds)

    def played(scores: Sequence[float]) -> Rounds:
        n = len(scores)
        seeds, points, met, rested = _seeded(scores), [0.0] * n, set[frozenset[int]](), set[int]()
        wanted = math.ceil(math.log2(n)) + 1 if rounds is None else rounds
        for _ in range(min(wanted, n - 1)):
            standing = sorted(seeds, key=lambda row: -points[row])  # stable: equal points by seed
            if n % 2:  # the last who has not rested yet does, for a point
                rests = next(row for row in reversed(standing) if row not in rested)
                rested.add(rests)
                points[rests] += 1
                standing.remove(rests)
            pairs = _paired(standing, met)
            shares = yield [(a, b, 0) for a, b in pairs]
            for (a, b), share in zip(pairs, shares, strict=True):
                met.add(frozenset((a, b)))
                points[a] += share
                points[b] += 1 - share
        return sorted(seeds, key=lambda row: -points[row])

    def most(n: int) -> int:
        wanted = math.ceil(math.log2(n)) + 1 if rounds is None else rounds
        return min(wanted, n - 1) * (n // 2)

    return Format(played, most)


def bradley_terry(prior: float = 1.0) -> Format:
    """Everyone meets everyone once, n (n - 1) / 2 comparisons; the `strengths` of Bradley and Terry rank.

    Args:
        prior: as of `strengths`.

    Raises:
        ValueError: for a prior not above 0.
    """
    strengths(np.zeros((1, 1)), prior)

    def rounds(scores: Sequence[float]) -> Rounds:
        n, seeds = len(scores), _seeded(scores)
        pairs = [(a, b) for i, a in enumerate(seeds) for b in seeds[i + 1 :]]
        shares = (yield [(a, b, 0) for a, b in pairs]) if pairs else []
        wins = np.zeros((n, n))
        for (a, b), share in zip(pairs, shares, strict=True):
            wins[a, b], wins[b, a] = share, 1 - share
        strong = strengths(wins, prior).round(9)  # equal ones must stay equal, whatever the order of the sums
        return sorted(seeds, key=lambda row: -strong[row])

    return Format(rounds, lambda n: n * (n - 1) // 2)


def strengths(wins: np.ndarray, prior: float = 1.0) -> np.ndarray:
    """`[n, n]` wins of row over column -> `[n]` log-strengths s: P(i beats j) = 1 / (1 + exp(s_j - s_i)).

    The posterior mode of Bradley and Terry (1952), by Hunter's iteration (2004, Annals of Statistics 32).

    Args:
        wins: ties count half for both.
        prior: games that each candidate is thought to have drawn with one of strength 0; without any, who won all games
            would be infinitely strong.

    Raises:
        ValueError: for a prior not above 0.
    """
    if not 0 < prior < math.inf:
        raise ValueError(f"prior={prior} must be above 0 and finite; 1 is one drawn game each")
    games, won = wins + wins.T, wins.sum(axis=1) + prior / 2
    strength, moved = np.ones(len(wins)), math.inf
    while moved > 1e-12:
        # gamma_i <- W_i / sum_j n_ij / (gamma_i + gamma_j)   (Hunter 2004, eq. 3), the prior's games being n_i0 of them
        met = (games / (strength[:, None] + strength[None, :])).sum(axis=1) + prior / (strength + 1)
        before, strength = strength, won / met
        moved = float(np.abs(np.log(strength / before)).max())
    return np.log(strength)


@dataclass(frozen=True)
class Outcome:
    """What tournaments came to, one per group.

    Attributes:
        order: `[B, N]` the candidates, best first.
        comparisons: `[B]` pairs that were asked about.
        ties: `[B]` those of them without a winner.
    """

    order: Tensor
    comparisons: Tensor
    ties: Tensor


def play(form: Format, scores: Tensor, ask: Callable[[list[tuple[int, Pair]]], Sequence[float]]) -> Outcome:
    """One tournament per group, all in step, so that each round of all groups is asked as one batch.

    Args:
        form: of each tournament.
        scores: `[B, N]`, which seed it.
        ask: `(group, pair)`s -> the share of a win of each pair's first, in [0, 1].

    Raises:
        ValueError: for answers that are not one share in [0, 1] for each pair.
    """
    groups, n = scores.shape
    # Who is rejected does not play, and stands last.
    playing = [[i for i, score in enumerate(row) if score > -math.inf] for row in scores.tolist()]
    running = [
        form.rounds([row[i] for i in mine]) if len(mine) > 1 else _alone(len(mine))
        for row, mine in zip(scores.tolist(), playing, strict=True)
    ]
    orders = [list[int]()] * groups
    comparisons, ties = [0] * groups, [0] * groups
    shares: list[list[float] | None] = [None] * groups
    awake = range(groups)
    while awake:
        asked: list[tuple[int, list[Pair]]] = []
        for b in awake:
            try:
                asked.append((b, running[b].send(shares[b])))  # type: ignore[arg-type]  # None starts it
            except StopIteration as ended:
                rest = [i for i in range(n) if i not in playing[b]]
                orders[b] = [playing[b][i] for i in ended.value] + rest
        flat = [(b, (playing[b][i], playing[b][j], game)) for b, pairs in asked for i, j, game in pairs]
        said = iter(_checked(ask(flat), len(flat)) if flat else [])
        for b, pairs in asked:
            mine = [next(said) for _ in pairs]
            comparisons[b], ties[b], shares[b] = comparisons[b] + len(mine), ties[b] + mine.count(0.5), mine
        awake = [b for b, _ in asked]  # type: ignore[assignment]
    order, asked_of, tied = (torch.tensor(said, device="cpu") for said in (orders, comparisons, ties))
    return Outcome(order.view(groups, n), asked_of, tied)


@dataclass(frozen=True)
class Tournament:
    """Ranks the images that a search returns, by comparisons; `tournament(judge)` makes one.

    Attributes:
        compare: the judge of pairs.
        form: of the tournament.
        chunk: pairs that the judge is asked about at once.
        both_orders: whether it is asked about each pair again the other way round, and the two are averaged.
    """

    compare: Compare
    form: Format
    chunk: int = 64
    both_orders: bool = True

    def __call__(
        self,
        images: Tensor,
        rewards: Tensor,
        prompts: list[list[str]],
        spend: Callable[[int], object] = lambda pairs: None,
    ) -> Outcome:
        """Images `[B, K, ...]`, their rewards `[B, K]`, which seed, and their prompts -> the ranking of each group.

        `spend` is told of so many pairs before they are asked about. An image whose reward is -inf does not play.
        """

        def ask(pairs: list[tuple[int, Pair]]) -> list[float]:
            said: list[float] = [0.0] * len(pairs)
            for game in sorted({pair[2] for _, pair in pairs}):
                rows = [row for row, (_, pair) in enumerate(pairs) if pair[2] == game]
                for start in range(0, len(rows), self.chunk):
                    part = rows[start : start + self.chunk]
                    spend(len(part))
                    for row, share in zip(part, self._asked([pairs[r] for r in part], images, prompts), strict=True):
                        said[row] = share
            return said

        return play(self.form, rewards, ask)

    def _asked(self, pairs: list[tuple[int, Pair]], images: Tensor, prompts: list[list[str]]) -> list[float]:
        first, second = (torch.stack([images[b, pair[which]] for b, pair in pairs]) for which in (0, 1))
        texts = [prompts[b][pair[0]] for b, pair in pairs]
        game = pairs[0][1][2]
        forth = _shares(self.compare(first, second, list(texts), game), len(pairs))
        if not self.both_orders:
            return forth
        back = _shares(self.compare(second.clone(), first.clone(), texts, game), len(pairs))
        return [(a + 1 - b) / 2 for a, b in zip(forth, back, strict=True)]


def tournament(judge: Any, form: Format | None = None, chunk: int = 64) -> Tournament:
    """A final choice by comparisons.

    Args:
        judge: of pairs: an object with `compare`, such as `dsearch.rewards.VLMJudge(..., mode="pairwise")`, or a
            function `(first, second, prompts, game) -> [P]`. It is asked about each pair in both orders, which are
            averaged, but where it says by an attribute `symmetric` that it does so itself.
        form: `elimination()` by default.
        chunk: pairs that it is asked about at once.

    Raises:
        TypeError: for a judge that is neither, and a form that is no `Format`.
        ValueError: for a judge of single pictures.
    """
    compare = getattr(judge, "compare", judge)
    if not callable(compare):
        raise TypeError(f"{judge!r} compares no pairs; give an object with compare(first, second, prompts, game)")
    if (mode := getattr(judge, "mode", "pairwise")) != "pairwise":
        raise ValueError(
            f"this judge has mode={mode!r}, which judges one picture at a time; make it with mode='pairwise', "
            "or compare its scores: tournament(by_reward(judge))"
        )
    form = elimination() if form is None else form
    if not isinstance(form, Format):
        raise TypeError(f"{form!r} is no Format; give elimination(), swiss(), bradley_terry() or Format(rounds, most)")
    return Tournament(compare, form, positive("chunk", chunk), not getattr(judge, "symmetric", False))


@dataclass(frozen=True)
class _ByReward:
    symmetric: ClassVar[bool] = True
    reward: Reward

    def __call__(self, first: Tensor, second: Tensor, prompts: list[str], game: int = 0) -> Tensor:
        a, b = (torch.as_tensor(self.reward(images, prompts), device=images.device) for images in (first, second))
        return 0.5 + 0.5 * torch.sign((a > b).float() - (a < b).float())


def by_reward(reward: Reward) -> Compare:
    """A judge of pairs that prefers what a reward says more of; equal rewards tie."""
    return _ByReward(reward)


def tied_at_top(rewards: Tensor) -> Tensor:
    """`[B, N]` rewards -> `[B]` whether the best is shared: where many are, a reward is too coarse to choose by."""
    return (rewards == rewards.amax(dim=1, keepdim=True)).sum(dim=1) > 1


def _alone(n: int) -> Rounds:
    """The tournament of none or one."""
    yield from ()
    return list(range(n))


def _shares(said: Any, n: int) -> list[float]:
    return _checked(torch.as_tensor(said, device="cpu").flatten().tolist(), n)


def _seeded(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda row: (-scores[row], row))


def _matches(pairs: list[tuple[int, int]], best_of: int) -> Generator[list[Pair], list[float], list[float]]:
    """Plays the pairs' matches until each is decided; by how many wins the first leads."""
    leads = [0.0] * len(pairs)
    for game in range(best_of):
        undecided = [m for m, lead in enumerate(leads) if abs(lead) <= best_of - game]
        if not undecided:
            break
        shares = yield [(*pairs[m], game) for m in undecided]
        for m, share in zip(undecided, shares, strict=True):
            leads[m] += 2 * share - 1
    return leads


def _paired(standing: list[int], met: set[frozenset[int]]) -> list[tuple[int, int]]:
    """Neighbours in the standing who have not met; who met all that are left meets the next again."""
    pairs, left = list[tuple[int, int]](), list(standing)
    while left:
        one = left.pop(0)
        other = next((row for row in left if frozenset((one, row)) not in met), left[0])
        left.remove(other)
        pairs.append((one, other))
    return pairs


def _checked(shares: Sequence[float], n: int) -> list[float]:
    shares = [float(share) for share in shares]
    if len(shares) != n or not all(0 <= share <= 1 for share in shares):
        raise ValueError(
            f"a judge said {shares[:8]} of {n} pairs; it gives the share of a win of each first, in [0, 1]"
        )
    return shares
