"""Selectors: which candidates live on. They see scores and return indices, never samples.

Each also says by how many nats its law differs from an indifferent choice (`Choice.kl`). Added along a path they are
the KL of the searched path to the pretrained one: exactly so where every beam keeps the best of w children whose values
do not tie, log w - (w-1)/w per step (Beirami et al. 2024, arXiv 2401.01879); for choices drawn by weights, an estimate
that is exact in the limit of many candidates; for pruning to k of N, the bound log(N/k).
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from .contract import Choice, Rng, Scores, Selector, precise, take, weight_dtype
from .resample import Resampler, ess, multinomial, systematic
from .rng import invert_cdf, move, shares

__all__ = [
    "at_clean_end",
    "best_child",
    "best_of_block",
    "best_of_each",
    "chain",
    "draws",
    "only_best_children",
    "replace_worst",
    "resample",
    "softmax_child",
    "top_k",
]


def best_child(scores: Scores, keep: int, rng: Rng) -> Choice:
    """The best child of each beam, K of N = K w; the lowest index wins a tie. `keep` is not used."""
    return best_of_each(scores.width)(scores, keep, rng)


def only_best_children(select: Selector) -> bool:
    """Whether a selector first keeps the best child of each beam, so that the others need not be held."""
    return select is best_child or getattr(select, "first", None) is best_child


def best_of_each(size: int) -> Selector:
    """The best of every `size` adjacent candidates, which descend from one beam; the lowest index wins a tie."""

    def select(scores: Scores, keep: int, rng: Rng) -> Choice:
        best = rearrange(scores.value, "b (k w) -> b k w", w=size).argmax(dim=-1)
        return _choose(scores, _child(best, size), _best_of(_drawn(scores, size)))

    return select


def best_of_block(scores: Scores, keep: int, rng: Rng) -> Choice:
    """The best of every N / keep adjacent candidates, which descend from one beam (CoDe's choice at a block's end)."""
    return best_of_each(scores.value.shape[1] // keep)(scores, keep, rng)


def softmax_child(temperature: float) -> Selector:
    """One child of each beam, drawn from softmax(value / temperature) over its siblings (SVDD, alpha > 0).

    Raises:
        ValueError: for a temperature that is not above 0.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} must be above 0 and finite; for the best child use best_child")

    def select(scores: Scores, keep: int, rng: Rng) -> Choice:
        siblings = _divided(rearrange(scores.value, "b (k w) -> b k w", w=scores.width), temperature)
        u = move(rng.uniform("child", scores.level, siblings.shape[:2]), siblings.device)
        kl = _nats(shares(siblings), _drawn(scores, scores.width))
        return _choose(scores, _child(invert_cdf(siblings, u[..., None])[..., 0], scores.width), kl)

    return select


def top_k(sort: bool = False, independent: bool = False) -> Selector:
    """The `keep` best of all candidates; the lowest index wins a tie.

    Indices ascend, so that beams keep their order. With `sort`, they come by descending value where any candidate is
    dropped, as in the published code. `independent` says that the candidates share no noise and no earlier choice, so
    that the KL of the best one is known exactly.
    """

    def select(scores: Scores, keep: int, rng: Rng) -> Choice:
        ranked = scores.value.argsort(dim=-1, descending=True, stable=True)
        if keep == ranked.shape[1]:
            ranked = ranked.sort(dim=-1).values
        kept = ranked[:, :keep]
        n = _drawn(scores, ranked.shape[1])  # [B, 1]
        kl = _best_of(n) if independent and keep == 1 else (n / keep).clamp(min=1).log()
        return _choose(scores, kept if sort else kept.sort(dim=-1).values, kl)

    return select


def replace_worst(rate: float, temperature: float = 1.0, zscore: bool = True, at_least: int = 0) -> Selector:
    """DSearch-R: the worst floor(rate K) beams become draws from softmax(value / temperature) over the rest.

    Draws are with replacement; the lowest index is the worse of equals. The survivors come first, in ascending order,
    then the draws. With `zscore`, values are standardised over the group first, so that a temperature means the same
    for kilobytes and for aesthetic scores; without, it is the paper's raw softmax. Where rate K is below `at_least`,
    so many are replaced.

    Raises:
        ValueError: for a rate outside (0, 1), or one that replaces no beam: rate K must reach 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate={rate} is outside (0, 1); the paper takes 0.01 to 0.05")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} must be above 0 and finite")

    def select(scores: Scores, keep: int, rng: Rng) -> Choice:
        beams = scores.value.shape[1]
        n = replaced(max(rate, at_least / beams), beams)
        worst_first = scores.value.argsort(dim=-1, stable=True)
        rest = worst_first[:, n:].sort(dim=-1).values
        value = standardised(scores.value) if zscore else scores.value
        log_p = _divided(take(value, rest), temperature)
        drawn = rng.categorical("replace", scores.level, log_p, n)
        # One of the beams after it, picked at random: a survivor, or a draw.
        law = (1 + n * shares(log_p)) / beams
        kl = (law * (beams * law).log()).sum(dim=-1, keepdim=True)
        return _choose(scores, torch.cat([rest, take(rest, drawn)], dim=1), kl)

    return select


def replaced(rate: float, beams: int) -> int:
    """How many of `beams` a rate replaces, floor(rate K).

    Raises:
        ValueError: where that is none, or all.
    """
    if beams < 2:
        raise ValueError(f"{beams} beam cannot replace another; take at least 2 beams")
    # 0.03 * 100 is 3.0 and 0.29 * 100 is 28.999...: the whole numbers people mean must come out.
    n = math.floor(rate * beams + 1e-9)
    if n < 1:
        raise ValueError(
            f"rate={rate} of {beams} beams replaces none; raise rate to {1 / beams:.4g} or beams to "
            f"{math.ceil(1 / rate)}"
        )
    if n == beams:
        raise ValueError(f"rate={rate} of {beams} beams replaces all; lower rate")
    return n


def standardised(value: Tensor) -> Tensor:
    """`[B, N]` -> z-scores over each group, float64; zeros where all are equal; infinite values stay as they are."""
    finite = value.isfinite()
    count = finite.sum(dim=-1, keepdim=True).clamp(min=1)
    # In float32 a large offset swallows the digits; huge values overflow when summed, and tiny ones square to 0. A
    # power of two scales without rounding.
    known = precise(torch.where(finite, value, 0))
    exponent = torch.frexp(known.abs().amax(dim=-1, keepdim=True)).exponent.clamp(-1000, 1000)
    known = known * torch.exp2(precise(-exponent))
    centred = torch.where(finite, known - known.sum(dim=-1, keepdim=True) / count, 0)
    spread = (centred.square().sum(dim=-1, keepdim=True) / count).sqrt()
    score = torch.where(spread > 0, centred / spread, 0)
    return torch.where(finite, score, value)


def draws(temperature: float = 1.0, zscore: bool = True, scheme: Resampler = multinomial) -> Selector:
    """`keep` draws from softmax(value / temperature) over all candidates, with replacement, by a resampling scheme.

    With `zscore`, values are standardised over the group first, so that a temperature means the same for any reward.

    Raises:
        ValueError: for a temperature that is not above 0.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature} must be above 0 and finite")

    def select(scores: Scores, keep: int, rng: Rng) -> Choice:
        log_p = _divided(standardised(scores.value) if zscore else scores.value, temperature)
        index = scheme(log_p, keep, rng, scores.level)
        kl = _nats(shares(log_p)[:, None], _drawn(scores, scores.value.shape[1]))
        return _choose(scores, index, kl)

    return select


def at_clean_end(select: Selector, before: Selector) -> Selector:
    """One selector for clean candidates, whose values are rewards, and another for all others."""

    def chosen(scores: Scores, keep: int, rng: Rng) -> Choice:
        return (select if scores.final else before)(scores, keep, rng)

    vars(chosen)["first"] = getattr(before, "first", before)  # clean candidates are all held anyway
    return chosen


def resample(scheme: Resampler = systematic, ess_below: float = 1.0) -> Selector:
    """Draw the candidates by their weights; where a group's ESS is at least `ess_below * N` it is left alone.

    After a draw the weights of a group are equal (their mean is kept, so that the product still estimates Z); a skipped
    group keeps its own. A skip needs `keep == N`. At the clean end nothing is drawn where all are kept: a weighted
    sample says more than one drawn from it.
    """
    if not 0 < ess_below <= 1:
        raise ValueError(f"ess_below={ess_below} is outside (0, 1]; 1 resamples at every scored step")

    def select(scores: Scores, keep: int, rng: Rng) -> Choice:
        n = scores.log_w.shape[1]
        if scores.final and keep == n:
            return Choice(_all(scores), scores.log_w, torch.zeros_like(scores.log_w))
        index = scheme(scores.log_w, keep, rng, scores.level)
        level = torch.logsumexp(scores.log_w, dim=-1, keepdim=True) - math.log(n)
        log_w = level.expand(-1, keep)
        kl = _nats(shares(scores.log_w)[:, None], _drawn(scores, n)).expand(-1, keep)
        if ess_below == 1:
            return Choice(index, log_w, kl)
        if keep != n:
            raise ValueError(f"ess_below={ess_below} keeps whole groups, but keep={keep} of {n}; set ess_below=1")
        skip = (ess(scores.log_w) >= ess_below * n)[:, None]
        return Choice(
            torch.where(skip, _all(scores), index),
            torch.where(skip, scores.log_w, log_w),
            torch.where(skip, 0, kl),
        )

    return select


def chain(*selectors: Selector) -> Selector:
    """One selector after another, each over the survivors of the one before."""
    if not selectors:
        raise ValueError("chain() of nothing; name at least one selector")

    def select(scores: Scores, keep: int, rng: Rng) -> Choice:
        choice = selectors[0](scores, keep, rng)
        for following in selectors[1:]:
            inner = following(scores.take(choice.index), keep, rng)
            kl = None if choice.kl is None or inner.kl is None else take(choice.kl, inner.index) + inner.kl
            choice = Choice(take(choice.index, inner.index), inner.log_w, kl)
        return choice

    vars(select)["first"] = getattr(selectors[0], "first", selectors[0])
    return select


def _divided(value: Tensor, temperature: float) -> Tensor:
    """`[..., N]` values -> log-weights value / temperature, up to a constant that keeps the best from overflowing."""
    value = precise(value)
    top = value.amax(dim=-1, keepdim=True)
    return torch.where(value == top, 0.0, (value - top) / temperature)


def _child(child: Tensor, width: int) -> Tensor:
    """`[B, K]` which sibling -> which of the N candidates."""
    return torch.arange(child.shape[1], device=child.device) * width + child


def _all(scores: Scores) -> Tensor:
    """`[B, N]`, every candidate in its place."""
    return torch.arange(scores.log_w.shape[1], device=scores.log_w.device).expand(scores.log_w.shape)


def _choose(scores: Scores, index: Tensor, kl: Tensor) -> Choice:
    log_w = take(scores.log_w, index)
    return Choice(index, log_w, kl.expand(index.shape))


def _drawn(scores: Scores, size: int) -> Tensor:
    """`[B, N / size]`: of every `size` adjacent candidates, how many were drawn; at least 1."""
    if scores.drawn is None:
        shape = len(scores.value), scores.value.shape[1] // size
        return torch.full(shape, float(size), dtype=weight_dtype(scores.value.device), device=scores.value.device)
    drawn = rearrange(scores.drawn, "b (k w) -> b k w", w=size).sum(dim=-1)
    return drawn.to(weight_dtype(drawn.device)).clamp(min=1)


def _best_of(n: Tensor) -> Tensor:
    """KL of the best of n independent candidates to any one of them: log n - (n-1)/n (Beirami et al. 2024)."""
    return n.log() - (n - 1) / n


def _nats(p: Tensor, n: Tensor) -> Tensor:
    """`[..., N]` probabilities of which n may be positive -> `[...]` their KL to the uniform law, sum p log(n p)."""
    return torch.special.xlogy(p, p * n[..., None]).sum(dim=-1)
