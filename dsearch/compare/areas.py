"""One number for a method over all its budgets: the area under its curve of reward against the log of the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, nan

import torch
from torch import Tensor

from .cells import Found, Key
from .intervals import Estimate, over_prompts
from .metrics import Interval
from .rows import Row, interval_of

__all__ = ["Area", "area_under", "areas_of"]


@dataclass(frozen=True)
class Area:
    """A method's mean reward over the log of its budgets.

    Attributes:
        model, objective, method: which.
        unit: of the budgets.
        budgets: their limits, rising.
        reward: the objective's area and how far it is above the baseline's.
        held_out: by name, likewise.
    """

    model: str
    objective: str
    method: str
    unit: str
    budgets: tuple[float, ...]
    reward: Estimate
    held_out: Mapping[str, Estimate]


def area_under(curve: Tensor, budgets: Sequence[float]) -> Tensor:
    """Rewards `[..., n]` at n rising budgets -> `[...]` the trapezoids' area over log budget, per unit of it.

    It is the mean reward of a budget that is drawn evenly on a log scale between the first and the last, in the units
    of the reward: a curve that is flat has its own height.

    Raises:
        ValueError: for fewer than two budgets, or ones that do not rise above 0.
    """
    if len(budgets) < 2 or budgets[0] <= 0 or any(b <= a for a, b in pairwise(budgets)):
        raise ValueError(f"budgets {list(budgets)}; an area is over two or more that rise above 0")
    logs = torch.tensor([log(b) for b in budgets], dtype=torch.float64, device="cpu")
    mids = (curve[..., 1:] + curve[..., :-1]).double() / 2
    return (mids * logs.diff()).sum(dim=-1) / (logs[-1] - logs[0])


def areas_of(found: Found, rows: Sequence[Row], base: str) -> list[Area]:
    """The areas of the methods that have two budgets or more of one unit, by model and objective.

    A place counts where it has a reward that is not rejected at every budget; differences pair places of both methods,
    at the budgets that both have.
    """
    by: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if len(row.budget) == 1:
            by.setdefault((row.model, row.objective, row.method, row.budget[0][0]), []).append(row)
    areas = []
    for (model, objective, method, unit), own in by.items():
        own.sort(key=lambda row: row.budget[0][1])
        keys = [row.key for row in own]
        beside = [key._replace(method=base) for key in keys]
        against = beside if method != base and all(key in found.ready for key in beside) else None
        if len(keys) > 1:
            names = [name for name in own[0].held_out if all(name in row.held_out for row in own)]
            said = {name: _estimate(found, keys, against, name) for name in (None, *names)}
            limits = tuple(key.budget[0][1] for key in keys)
            held_out = {name: said[name] for name in names}
            areas.append(Area(model, objective, method, unit, limits, said[None], held_out))
    return areas


def _estimate(found: Found, keys: Sequence[Key], against: Sequence[Key] | None, name: str | None) -> Estimate:
    seeds = sorted({seed for key in keys for seed in found.cells[key].seeds})
    own, pooled = _area(found, keys, seeds, name), any(found.cells[key].pooled for key in keys)
    said = Estimate(interval_of(own, pooled, not found.single) if not own.isnan().all() else Interval(nan, nan, nan))
    if against is None:
        return said
    apart, both = own - _area(found, against, seeds, name), pooled or any(found.cells[key].pooled for key in against)
    if apart.isnan().all():
        return said
    above = interval_of(apart, both, not found.single)
    return said._replace(above=None if above.low != above.low else above, beyond=None if both else over_prompts(apart))


def _area(found: Found, keys: Sequence[Key], seeds: Sequence[int], name: str | None) -> Tensor:
    """`[S, P]`, nan where a place lacks a reward at some budget."""
    curve = [found.cells[key].of(name, seeds, len(found.prompts)).mean for key in keys]
    return area_under(torch.stack(curve, dim=-1), [key.budget[0][1] for key in keys])
