"""What a report says of a run, as plain data: plans, curves, tables, and every search's lineage."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._optional import optional
from ..compare import over_prompts, over_seeds
from ..compare.cells import usual_baseline
from ..core.plan import Bill
from ..core.result import Lineage
from ..experiments.experiment import Unit
from ..experiments.folder import Run, Trace

__all__ = ["Search", "lineage", "overview", "searches"]

Cell = tuple[str, str, str, int]
"""Model, guide, method and budget: what a line of a figure or a table is about."""

Place = tuple[int, int]
"""A seed's and a prompt's position in the experiment."""


class Search(NamedTuple):
    """One group of a finished unit: a prompt's search, or that of a pool of prompts.

    Attributes:
        unit: it is part of.
        group: its number b in the unit.
        trace: the unit's.
        records: one an image, best first.
        path: `[K, T]` which candidate each image's forebear was, at each step.
        ancestor: `[K]` the beam of x_T each image descends from.
    """

    unit: Unit
    group: int
    trace: Trace
    records: list[dict[str, Any]]
    path: Tensor
    ancestor: Tensor

    @property
    def cell(self) -> Cell:
        """The line it belongs to."""
        return self.unit.model, self.unit.guide, self.unit.method, self.unit.budget

    @property
    def positions(self) -> tuple[int, ...]:
        """Of its prompts: one, or all of the pool."""
        pooled = len(self.trace.prompts) != len(self.unit.positions)
        return self.unit.positions if pooled else self.unit.positions[self.group : self.group + 1]

    @property
    def rows(self) -> list[int]:
        """Candidates of each step, drawn or not."""
        return [alive * width for alive, width in zip(self.trace.alive, self.trace.width, strict=True)]

    def values(self, step: int) -> Tensor | None:
        """`[N]` of a step's candidates, -inf for those that were not drawn; None where nothing was scored."""
        values = self.trace.values[step]
        return None if values is None else values[self.group].float()


def searches(run: Run) -> list[Search]:
    """The searches of the finished units, in order."""
    return [search for unit in run.finished for search in _searches(run, unit)]


def _searches(run: Run, unit: Unit) -> Iterator[Search]:
    import json

    records = [json.loads(line) for line in run.lines(unit, "records.jsonl")]
    trace = run.trace(unit)
    descent = Lineage(tuple(trace.child), tuple(trace.width), trace.order)
    path, ancestor, k = descent.path(), descent.ancestor(), trace.order.shape[1]
    for b in range(len(trace.prompts)):
        yield Search(unit, b, trace, records[b * k : (b + 1) * k], path[b], ancestor[b])


def overview(run: Run, found: Sequence[Search]) -> dict[str, Any]:
    """All of a report but lineages and pictures: names, configuration, plans, curves, tables and a line a search."""
    experiment = run.experiment
    cells = list(dict.fromkeys(search.cell for search in found))
    of = {cell: [search for search in found if search.cell == cell] for cell in cells}
    timings, base = run.timings(), usual_baseline(experiment.methods)
    return {
        "title": run.folder.resolve().name,
        "finished": len(run.finished),
        "units": len(run.units),
        "prompts": list(experiment.prompts),
        "methods": {name: named.kind for name, named in experiment.methods.items()},
        "models": list(experiment.models),
        "guides": list(experiment.guides),
        "watchers": {guide: list(experiment.watchers(guide)) for guide in experiment.guides},
        "budgets": [_described(budget) for budget in experiment.as_dict()["budgets"]],
        "seeds": list(experiment.seeds),
        "baseline": base,
        "repeated": "seeds" if len(experiment.seeds) > 1 else "prompts",
        "config": _yaml(experiment.as_dict()),
        "about": dict(run.about),
        "cells": [
            {
                **dict(zip(("model", "guide", "method", "budget"), cell, strict=True)),
                "plan": _plan(of[cell]),
                "curve": _curve(run, of[cell]),
                "rewards": _rewards(run, of[cell], of.get((*cell[:2], base, cell[3]))),
                "bill": _bill(of[cell], timings),
            }
            for cell in cells
        ],
        "searches": [_line(search, cells.index(search.cell)) for search in found],
    }


def _described(budget: dict[str, float]) -> str:
    return ", ".join(f"{unit} = {limit:,}" for unit, limit in budget.items()) or "as given"


def _yaml(config: dict[str, Any]) -> str:
    with optional():
        import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)


def _plan(own: Sequence[Search]) -> dict[str, Any]:
    """b(t), w(t) and rows of each step, these as they were drawn, a group's mean."""
    first = own[0]
    counts = [[_drawn(search, i) for search in own] for i in range(len(first.rows))]
    return {"b": first.trace.alive, "w": first.trace.width, "rows": [fmean(count) for count in counts]}


def _drawn(search: Search, step: int) -> int:
    values = search.values(step)
    return search.rows[step] if values is None else int((values > -math.inf).sum())


def _curve(run: Run, own: Sequence[Search]) -> list[list[float | None]]:
    """(step, mean, low, high) of the best value among a prompt's candidates, at steps that score."""
    steps = [i for i, values in enumerate(own[0].trace.values) if values is not None]
    tables = {i: _table(run) for i in steps}
    for search in own:
        seed = run.experiment.seeds.index(search.unit.seed)
        for i, best in _best(search, _plain(run, own)).items():
            tables[i][seed, list(search.positions)] = best
    return [[i, *_interval(tables[i], _pooled(own))] for i in steps]


def _best(search: Search, plain: bool) -> dict[int, Tensor]:
    """By scored step `[P]` the best value of each of its prompts (plain samples: the mean), nan where none is left."""
    prompts, prompt = len(search.positions), torch.arange(search.trace.alive[0]) % len(search.positions)
    best = {}
    for i, (width, child) in enumerate(zip(search.trace.width, search.trace.child, strict=True)):
        values, prompt = search.values(i), prompt.repeat_interleave(width)
        if values is not None:
            held = [values[prompt == p].double() for p in range(prompts)]
            best[i] = torch.stack([some.mean() if plain or not len(some) else some.max() for some in held])
        prompt = prompt[child[search.group]]
    return best


def _table(run: Run) -> Tensor:
    """`[S, P]` of nan, for a number by seed and prompt."""
    return torch.full((len(run.experiment.seeds), len(run.experiment.prompts)), torch.nan, dtype=torch.float64)


def _interval(table: Tensor, pooled: bool) -> list[float | None]:
    """`[S, P]` numbers -> their mean and its 95% interval: over seeds, or over prompts where there is one seed."""
    found = over_seeds(table, pooled) if len(table) > 1 else None if pooled else over_prompts(table)
    if found is None:
        return [float(table.nanmean()), None, None]
    return list(found)


def _plain(run: Run, own: Sequence[Search]) -> bool:
    """Whether nothing chose among the images."""
    return run.experiment.methods[own[0].unit.method].kind == "plain"


def _pooled(own: Sequence[Search]) -> bool:
    return len(own[0].positions) > 1


def _counted(run: Run, own: Sequence[Search]) -> dict[Place, list[dict[str, Any]]]:
    """By seed and prompt the images that count: the best, or of plain samples all; none where a pool dropped it."""
    held: dict[Place, list[dict[str, Any]]] = {}
    for search in own:
        seed = run.experiment.seeds.index(search.unit.seed)
        for record in search.records:
            held.setdefault((seed, record["position"]), []).append(record)
    return held if _plain(run, own) else {place: records[:1] for place, records in held.items()}


def _scores(run: Run, own: Sequence[Search], of: Callable[[dict[str, Any]], float | None]) -> Tensor:
    """`[S, P]` a reward of the images that count, their mean; nan where there is none."""
    table = _table(run)
    for place, records in _counted(run, own).items():
        table[place] = fmean(math.nan if of(record) is None else of(record) for record in records)  # type: ignore[misc]
    return table


def _rewards(run: Run, own: Sequence[Search], baseline: Sequence[Search] | None) -> dict[str, Any]:
    guide, pooled, counted = own[0].unit.guide, _pooled(own), _counted(run, own)
    said: dict[str, Callable[[dict[str, Any]], float | None]] = {guide: _reward}
    said |= {name: partial(_observed, name) for name in own[0].records[0]["observed"]}
    above = None
    if baseline is not None and baseline != own:
        pair = _scores(run, own, _reward) - _scores(run, baseline, _reward)
        above = _interval(pair, pooled or _pooled(baseline))
    return {
        "n": len(counted),
        "of": _table(run).numel(),
        "images": len(own[0].records),
        "means": {name: _interval(_scores(run, own, of), pooled) for name, of in said.items()},
        "above": above,
        "kl": _mean(record["kl"] for records in counted.values() for record in records),
        "ess": _ess(own),
    }


def _reward(record: dict[str, Any]) -> float | None:
    return record["reward"]


def _observed(name: str, record: dict[str, Any]) -> float | None:
    return record["observed"][name]


def _mean(numbers: Iterable[float | None]) -> float | None:
    held = [number for number in numbers if number is not None]
    return fmean(held) if held else None


def _ess(own: Sequence[Search]) -> float | None:
    """Mean effective number of the returned images by their weights; None where all weigh alike."""
    weights = [torch.tensor([_log(record["log_w"]) for record in s.records], dtype=torch.float64) for s in own]
    if not any(bool((log_w != log_w[0]).any()) for log_w in weights):
        return None
    shares = [log_w.softmax(0) for log_w in weights]
    return fmean(float(1 / share.square().sum()) for share in shares)


def _log(weight: float | None) -> float:
    return -math.inf if weight is None else weight  # a record cannot say that a weight is 0


def _bill(own: Sequence[Search], timings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    units = list(dict.fromkeys(search.unit for search in own))
    prompts = sum(len(unit.positions) for unit in units)
    seconds = sum(timings[unit.name]["seconds"] for unit in units)
    peaks = [timings[unit.name]["peak_bytes"] for unit in units if timings[unit.name]["peak_bytes"] is not None]
    return {
        **{
            kind: [fmean(search.records[0][kind][unit] for search in own) for unit in Bill._fields]
            for kind in ("bill", "planned")
        },
        "units": len(units),
        "pooled": _pooled(own),
        "seconds": seconds,
        "seconds_a_prompt": seconds / prompts,
        "peak_bytes": max(peaks, default=None),
    }


def _line(search: Search, cell: int) -> dict[str, Any]:
    """A search's place, and its images: (position, reward, observed, KL, ancestor) each."""
    return {
        "cell": cell,
        "seed": search.unit.seed,
        "positions": list(search.positions),
        "images": [
            [r["position"], r["reward"], list(r["observed"].values()), r["kl"], r["ancestor"]] for r in search.records
        ],
    }


def lineage(search: Search) -> dict[str, Any]:
    """A search as the page draws it: who was drawn, with which value, who was kept, and which path led to the images.

    Candidate j of step i is a child of beam `j // width[i]`, which is candidate `child[i - 1][beam]` of the step
    before, or beam `beam` of x_T. `values` are float32, of the scored steps one after another; `child` is None where
    all candidates lived on in their order.
    """
    trace, b = search.trace, search.group
    values = [search.values(i) for i in range(len(trace.alive))]
    scored = [part for part in values if part is not None]
    pooled = len(search.positions) > 1
    return {
        "alive": trace.alive,
        "width": trace.width,
        "scored": [part is not None for part in values],
        "values": base64.b64encode(torch.cat(scored).numpy().astype("<f4").tobytes()).decode() if scored else "",
        "child": [_moved(child[b].tolist(), n) for child, n in zip(trace.child, search.rows, strict=True)],
        "order": trace.order[b].tolist(),
        "path": search.path.tolist(),
        "ancestor": search.ancestor.tolist(),
        "prompts": [search.positions[k % len(search.positions)] for k in range(trace.alive[0])] if pooled else None,
    }


def _moved(child: list[int], candidates: int) -> list[int] | None:
    return None if child == list(range(candidates)) else child
