"""The rows of a table: what a method reached, what it cost, and how far it is above the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, isnan, nan
from statistics import fmean, median

import torch
from torch import Tensor

from ..core.plan import Bill
from .cells import Cell, Found, Key, Limits
from .embedded import Embedded
from .intervals import Estimate, over_prompts, over_seeds
from .metrics import Interval, vendi
from .scores import paired_off


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        model, objective, budget, method: which; the budget as pairs of unit and limit, empty for methods as given.
        seeds: repetitions.
        kept: prompts of which an image was left, a mean over seeds: fewer than `asked` where a pool lost some.
        asked: prompts.
        reward: of the objective, with the share that it rejected.
        held_out: by name, of what watched, likewise.
        diversity: mean pairwise 1 - cosine of a prompt's images across seeds; None where it was not measured.
        kl: mean nats from the pretrained path, where it is known.
        ess: mean effective number of the images that a search returned, by their weights; None where all weigh alike.
        bill: counted units per asked prompt.
        planned: the same, as the plans said.
        seconds: median over searches of seconds per prompt, held-out rewards included; the first search of a model,
            which warms up, is left out where there are others.
        peak_bytes: most memory that a search of it has taken.
        vendi: how many different images of a prompt there are across seeds; None where it was not measured.
        ties: share of the searches in which several final candidates share the best reward; None for single candidates.
        undecided: share of a final choice's comparisons without a winner; None without one.
    """

    model: str
    objective: str
    budget: Limits
    method: str
    seeds: int
    kept: float
    asked: int
    reward: Estimate
    held_out: Mapping[str, Estimate]
    diversity: Estimate | None
    kl: float | None
    ess: float | None
    bill: Mapping[str, float]
    planned: Mapping[str, float]
    seconds: float
    peak_bytes: int | None
    vendi: Estimate | None = None
    ties: float | None = None
    undecided: float | None = None

    @property
    def key(self) -> Key:
        """Which row it is."""
        return Key(self.model, self.objective, self.budget, self.method)

    def spent(self, unit: str) -> float:
        """What a prompt took, in model_calls, decodes, reward_calls or seconds."""
        return self.seconds if unit == "seconds" else self.bill[unit]


def row_of(found: Found, key: Key, base: str, embedded: Embedded | None = None) -> Row:
    """What a cell says, paired with the baseline's; with intervals over prompts where there is a single seed."""
    cell, beside = found.cells[key], found.beside(key, base)
    against = None if beside == key else found.cells.get(beside)
    said = partial(_estimate, cell, against, len(found.prompts), not found.single)
    asked = sum(len(s.unit.positions) for s in cell.searches)
    warm = [s for s in cell.searches if not s.first] or cell.searches
    nats = [value for place in sorted(cell.kl) for value in cell.kl[place]]
    return Row(
        **key._asdict(),
        seeds=len(cell.seeds),
        kept=len(found.prompts) * len(cell.scores[None]) / len(cell.covered),
        asked=len(found.prompts),
        reward=said(None),
        held_out={name: said(name) for name in cell.scores if name is not None},
        diversity=embedded.estimate(cell, against) if embedded else None,
        vendi=embedded.estimate(cell, against, vendi, least=1.0) if embedded else None,
        ties=fmean(cell.ties) if cell.ties else None,
        undecided=_undecided(cell),
        kl=fmean(nats) if nats else None,
        ess=_ess(cell),
        bill={unit: sum(s.groups * s.bill.get(unit, 0) for s in cell.searches) / asked for unit in Bill._fields},
        planned={unit: sum(s.groups * s.planned.get(unit, 0) for s in cell.searches) / asked for unit in Bill._fields},
        seconds=median(s.seconds / len(s.unit.positions) for s in warm),
        peak_bytes=max((s.peak_bytes for s in cell.searches if s.peak_bytes is not None), default=None),
    )


def _estimate(cell: Cell, against: Cell | None, prompts: int, seeds: bool, name: str | None) -> Estimate:
    """A mean and its paired difference; none is claimed where a side rejected an image of a pair."""
    own = cell.of(name, cell.seeds, prompts)
    said = Estimate(interval_of(own.mean, cell.pooled, seeds), rejected=own.rate)
    if against is None:
        return said
    theirs, pooled = against.of(name, cell.seeds, prompts), cell.pooled or against.pooled
    said = said._replace(pairs=paired_off(own, theirs, pooled))
    if said.pairs is None or said.pairs.rejected:
        return said
    apart = own.mean - theirs.mean
    above = interval_of(apart, pooled, seeds)
    return said._replace(above=None if isnan(above.low) else above, beyond=None if pooled else over_prompts(apart))


def interval_of(cells: Tensor, pooled: bool, seeds: bool) -> Interval:
    """`[S, P]` -> the mean and its interval over seeds, or else over prompts; its ends are nan if there are too few."""
    found = over_seeds(cells, pooled) if seeds else None if pooled else over_prompts(cells)
    return found or Interval(float(cells.nanmean()), nan, nan)


def _undecided(cell: Cell) -> float | None:
    asked = sum(comparisons for comparisons, _ in cell.verdicts)
    return sum(ties for _, ties in cell.verdicts) / asked if asked else None


def _ess(cell: Cell) -> float | None:
    """(sum w)^2 / sum w^2 of each search's images, 0 where none has a weight, the mean over the searches."""
    groups = [torch.tensor(log_w, dtype=torch.float64, device="cpu") for log_w in cell.log_w]
    if all(bool((log_w == log_w[0]).all()) for log_w in groups):
        return None
    return fmean(float(1 / log_w.softmax(0).square().sum()) if log_w.max() > -inf else 0.0 for log_w in groups)
