"""The best value among a prompt's candidates, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor

from ..experiments.folder import Trace
from .cells import Cell, Found
from .intervals import Estimate
from .reading import reading
from .rows import interval_of
from .scores import Scores


def along(found: Found, cell: Cell) -> dict[int, Estimate]:
    """By scored step, from 0: the best value of a prompt (for `plain` the mean), over its seeds and the prompts.

    Before the last step a value is an estimate: mostly the objective's reward of the posterior mean. A prompt of which
    all candidates are rejected is in `rejected` and not in the mean.
    """
    seeds, tables = cell.seeds, dict[int, Tensor]()
    for search in cell.searches:
        with reading(search.run, search.unit):
            best_of = _best(search.run.trace(search.unit), len(search.unit.positions), cell.plain)
        for step, best in best_of.items():
            table = tables.setdefault(
                step, torch.full((len(seeds), len(found.prompts), 2), torch.nan, dtype=torch.float64, device="cpu")
            )
            table[seeds.index(search.unit.seed), list(search.unit.positions)] = best
    said = {step: Scores(*table.unbind(-1)) for step, table in sorted(tables.items())}
    return {
        step: Estimate(interval_of(scores.mean, cell.pooled, not found.single), rejected=scores.rate)
        for step, scores in said.items()
    }


def _best(trace: Trace, prompts: int, plain: bool) -> dict[int, Tensor]:
    """By scored step `[P, 2]`, the finite value and the rejected share; nan for a prompt of which nothing is left."""
    pools = prompts // len(trace.order)  # prompts of a group: beam k of a pool carries prompt k mod P
    owner = (torch.arange(trace.alive[0], device="cpu") % pools).expand(len(trace.order), -1)  # [B, K]
    best = {}
    for i, (width, child, values) in enumerate(zip(trace.width, trace.child, trace.values, strict=True)):
        if trace.parent is None:
            owner = owner.repeat_interleave(width, dim=1)  # [B, N]
        else:
            owner = owner.gather(1, trace.parent[i].clamp(min=0))
        if values is not None:
            values = torch.where(values.isnan(), -torch.inf, values)  # of a tree, nodes that were not asked
            best[i] = torch.cat([_of_each(v.double(), o, pools, plain) for v, o in zip(values, owner, strict=True)])
        owner = owner.gather(1, child)
    return best


def _of_each(values: Tensor, owner: Tensor, prompts: int, plain: bool) -> Tensor:
    held: Sequence[Tensor] = [values[owner == p] for p in range(prompts)]
    counted = [some if plain or not len(some) else some.max()[None] for some in held]
    said = [(float(some[some.isfinite()].mean()), _share(some)) for some in counted]
    return torch.tensor(said, dtype=torch.float64, device="cpu")


def _share(counted: Tensor) -> float:
    return float((~counted.isfinite()).double().mean()) if len(counted) else nan
