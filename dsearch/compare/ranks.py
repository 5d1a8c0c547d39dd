"""How well values on the way rank what comes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import isnan, nan

import torch
from torch import Tensor

from .._optional import optional
from ..experiments.folder import Trace
from .intervals import around, jackknife
from .metrics import Interval

FEWEST = (5, 3)
"""Candidates that a prompt needs: of all its seeds, and without any one of them."""


Points = list[list[float]]
"""Pairs of a value on the way and the final reward."""


def rank_correlation(searches: Mapping[int, Sequence[tuple[Trace, Sequence[int]]]]) -> dict[int, Interval]:
    """How well a value on the way ranks what comes of it: by step, Spearman's correlation and its 95% interval.

    A point is a candidate that has descendants among the final candidates, with its value and the mean final reward of
    those. Ranks are taken within a prompt, over all seeds, so that a prompt's difficulty does not count. The mean over
    the prompts has an interval from leaving out one seed of one prompt at a time (of all, where they share a pool).
    Points are survivors, chosen by these very values, so a choosy search shows less than all candidates would.

    A prompt counts at a step where its seeds give 5 candidates together and 3 without any one of them, and neither
    values nor rewards are all equal, even then; a step where no prompt counts is left out.

    Args:
        searches: by seed, traces and the positions of their prompts.
    """
    points: dict[int, dict[int, dict[int, Points]]] = {}  # by step, position and seed
    pooled = False
    for seed, traces in sorted(searches.items()):
        for trace, positions in traces:
            pooled |= len(trace.order) != len(positions)
            for step, position, point in _points(trace, positions):
                points.setdefault(step, {}).setdefault(position, {}).setdefault(seed, []).append(point)
    found = {}
    for step, by_position in sorted(points.items()):
        known = [own for _, own in sorted(by_position.items()) if _enough(own)]
        if known:
            found[step] = _mean([known] if pooled else [[own] for own in known])
    return found


def _enough(by_seed: Mapping[int, Points]) -> bool:
    sizes = [len(points) for points in by_seed.values()]
    if len(sizes) < 2 or sum(sizes) < FEWEST[0] or sum(sizes) - max(sizes) < FEWEST[1]:
        return False
    seeds = list(by_seed)
    return all(not isnan(_spearman(by_seed, [s for s in seeds if s != without])) for without in (None, *seeds))


def _mean(strata: Sequence[Sequence[Mapping[int, Points]]]) -> Interval:
    """Prompts in strata that share no noise -> the mean over strata, in [-1, 1]."""

    def correlation(prompts: Sequence[Mapping[int, Points]], seeds: Sequence[int]) -> float:
        return sum(_spearman(by_seed, seeds) for by_seed in prompts) / len(prompts)

    seeds = [sorted({seed for by_seed in prompts for seed in by_seed}) for prompts in strata]
    of = [partial(correlation, prompts) for prompts in strata]
    whole = torch.tensor([one(own) for one, own in zip(of, seeds, strict=True)], dtype=torch.float64, device="cpu")
    mean, low, high = around(whole, [jackknife(own, one) for one, own in zip(of, seeds, strict=True)])
    return Interval(mean, max(low, -1.0), min(high, 1.0))


def _points(trace: Trace, positions: Sequence[int]) -> Iterator[tuple[int, int, list[float]]]:
    """The step, the position and (value, mean final reward) of all candidates with descendants."""
    final = trace.values[-1]
    if final is None or all(values is None for values in trace.values[:-1]):
        return
    whence = descent(trace)
    for b in range(len(final)):
        pooled = len(final) != len(positions)
        roots = (whence[0][b] // trace.width[0]).tolist()  # beam k of a pool carries prompt k mod P
        owner = [positions[root % len(positions)] if pooled else positions[b] for root in roots]
        for i, values in enumerate(trace.values[:-1]):
            if values is None:
                continue
            own: dict[tuple[int, int], list[float]] = {}
            for n, (position, candidate, reward) in enumerate(
                zip(owner, whence[i][b].tolist(), final[b].tolist(), strict=True)
            ):
                if trace.parent is not None and trace.parent[-1][b, n] < 0:  # another prompt's tree has more images
                    continue
                own.setdefault((position, candidate), []).append(reward)
            for (position, candidate), rewards in own.items():
                point = [float(values[b, candidate]), sum(rewards) / len(rewards)]
                if not any(map(isnan, point)):  # -inf ranks last
                    yield i, position, point


def descent(trace: Trace) -> list[Tensor]:
    """For each step `[B, N]`, which of its candidates each of the N final candidates descends from."""
    at = torch.arange(trace.values[-1].shape[1], device="cpu").expand(trace.values[-1].shape)  # type: ignore[union-attr]
    whence = [at]
    for i in reversed(range(len(trace.child) - 1)):
        beam = at // trace.width[i + 1] if trace.parent is None else trace.parent[i + 1].gather(1, at).clamp(min=0)
        at = trace.child[i].gather(1, beam)
        whence.append(at)
    return whence[::-1]


def _spearman(by_seed: Mapping[int, Points], seeds: Sequence[int]) -> float:
    """The rank correlation of the points of some seeds; nan where values or rewards are all equal."""
    with optional():
        from scipy.stats import rankdata

    points = torch.tensor(
        [point for seed in seeds for point in by_seed.get(seed, [])], dtype=torch.float64, device="cpu"
    )
    x, y = (torch.from_numpy(rankdata(axis)) for axis in points.T.numpy())
    x, y = x - x.mean(), y - y.mean()
    scale = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / scale if scale else nan
