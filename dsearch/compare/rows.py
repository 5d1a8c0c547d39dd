"""The rows of a table: what a method reached, what it cost, and how far it is above the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from ..core.plan import Bill
from .cells import Cell, Found, Key, Limits
from .intervals import over_prompts, over_seeds
from .metrics import Interval

if TYPE_CHECKING:
    from .embedded import Embedded


class Estimate(NamedTuple):
    """A mean over seeds and prompts, and how far it is above the baseline's.

    Attributes:
        own: the mean and its interval over seeds.
        above: the paired difference from the baseline, over seeds; None where nothing pairs, or for the baseline.
        beyond: the same difference, over prompts; None where prompts are no samples.
    """

    own: Interval
    above: Interval | None = None
    beyond: Interval | None = None


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        model, guide, budget, method: which; the budget as pairs of unit and limit, empty for methods as given.
        seeds: repetitions.
        kept: prompts of which an image was left, a mean over seeds: fewer than `asked` where a pool lost some.
        asked: prompts.
        reward: of the guide.
        observed: by name, of what watched.
        diversity: mean pairwise 1 - cosine of a prompt's images across seeds; None where it was not measured.
        kl: mean nats from the pretrained path, where it is known.
        bill: counted units an asked prompt.
        seconds: median over searches of seconds a prompt, what watches included; the first search of a model, which
            warms up, is left out where there are others.
        peak_bytes: most memory that a search of it has taken.
    """

    model: str
    guide: str
    budget: Limits
    method: str
    seeds: int
    kept: float
    asked: int
    reward: Estimate
    observed: Mapping[str, Estimate]
    diversity: Estimate | None
    kl: float | None
    bill: Mapping[str, float]
    seconds: float
    peak_bytes: int | None

    def spent(self, unit: str) -> float:
        """What a prompt took, in model_calls, decodes, reward_calls or seconds."""
        return self.seconds if unit == "seconds" else self.bill[unit]


def row_of(found: Found, cells: Mapping[Key, Cell], key: Key, base: str, embedded: Embedded) -> Row:
    """What a cell says, paired with that of the baseline at the same budget."""
    cell, against = cells[key], cells.get(key._replace(method=base)) if key.method != base else None
    estimate = partial(_estimate, cell, against, len(found.prompts))
    asked = sum(len(s.unit.positions) for s in cell.searches)
    warm = [s for s in cell.searches if not s.first] or cell.searches
    nats = [value for place in sorted(cell.kl) for value in cell.kl[place]]
    reward = estimate(None)
    assert reward is not None  # or the cell were left out
    said = {name: estimate(name) for name in cell.scores if name is not None}
    return Row(
        **key._asdict(),
        seeds=len(cell.seeds),
        kept=len(found.prompts) * len(cell.scores[None]) / len(cell.covered),
        asked=len(found.prompts),
        reward=reward,
        observed={name: one for name, one in said.items() if one is not None},
        diversity=embedded.estimate(cell, against),
        kl=sum(nats) / len(nats) if nats else None,
        bill={unit: sum(s.groups * s.bill[unit] for s in cell.searches) / asked for unit in Bill._fields},
        seconds=median(s.seconds / len(s.unit.positions) for s in warm),
        peak_bytes=max((s.peak_bytes for s in cell.searches if s.peak_bytes is not None), default=None),
    )


def _estimate(cell: Cell, against: Cell | None, prompts: int, name: str | None) -> Estimate | None:
    own = over_seeds(cell.matrix(name, cell.seeds, prompts), cell.pooled)
    if own is None or against is None:
        return None if own is None else Estimate(own)
    seeds = sorted({*cell.seeds} & {*against.seeds})
    apart = cell.matrix(name, seeds, prompts) - against.matrix(name, seeds, prompts)
    pooled = cell.pooled or against.pooled
    return Estimate(own, over_seeds(apart, pooled), None if pooled else over_prompts(apart))
