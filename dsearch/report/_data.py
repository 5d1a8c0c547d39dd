"""What a report says of a run, as plain data: plans, curves, tables, and every search's lineage."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._optional import optional
from ..compare.along import along
from ..compare.cells import Found, Key, key_of, usual_baseline
from ..compare.reading import reading
from ..compare.rows import Row, row_of
from ..compare.words import ties_of
from ..core.plan import Bill
from ..experiments.experiment import Unit, described
from ..experiments.folder import Run, Trace

__all__ = ["Search", "lineage", "overview", "searches"]


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
    def positions(self) -> tuple[int, ...]:
        """Of its prompts: one, or all of the pool."""
        pooled = len(self.trace.prompts) != len(self.unit.positions)
        return self.unit.positions if pooled else self.unit.positions[self.group : self.group + 1]

    @property
    def rows(self) -> list[int]:
        """Candidates of each step, drawn or not."""
        if self.trace.parent is not None:
            return [len(self.parents(step) or ()) for step in range(len(self.trace.alive))]
        return [alive * width for alive, width in zip(self.trace.alive, self.trace.width, strict=True)]

    @property
    def tiles(self) -> list[int]:
        """Thumbnails on each step's sheet: of a tree as many as the unit's largest has nodes."""
        return self.rows if self.trace.parent is None else [child.shape[1] for child in self.trace.child]

    def values(self, step: int) -> Tensor | None:
        """`[N]` of a step's candidates, -inf for those that were not drawn; None where nothing was scored."""
        values = self.trace.values[step]
        if values is None:
            return None
        own = self.parents(step)
        return values[self.group].float() if own is None else values[self.group, : len(own)].float()

    def parents(self, step: int) -> list[int] | None:
        """Of a tree, which node of the level before each node came from; None for a search by steps."""
        if self.trace.parent is None:
            return None
        return [parent for parent in self.trace.parent[step][self.group].tolist() if parent >= 0]


def searches(run: Run) -> list[Search]:
    """The searches of the finished units, in order."""
    found: list[Search] = []
    for unit in run.finished:
        with reading(run, unit):
            found += _searches(run, unit)
    return found


def _searches(run: Run, unit: Unit) -> Iterator[Search]:
    records = run.records_of(unit)
    trace = run.trace(unit)
    path, ancestor, k = trace.lineage.path(), trace.lineage.ancestor(), trace.order.shape[1]
    for b in range(len(trace.prompts)):
        yield Search(unit, b, trace, records[b * k : (b + 1) * k], path[b], ancestor[b])


def overview(run: Run, searches: Sequence[Search]) -> dict[str, Any]:
    """All of a report but lineages and pictures: names, configuration, plans, curves, tables and a line per search."""
    experiment, found = run.experiment, Found([run])
    base, config = usual_baseline(experiment.methods), experiment.as_dict()
    of: dict[Key, list[Search]] = {}
    for search in searches:
        of.setdefault(key_of(run, search.unit), []).append(search)
    rows = [row_of(found, key, base) for key in of]
    return {
        "title": run.folder.resolve().name,
        "finished": len(run.finished),
        "units": len(run.units),
        "prompts": list(experiment.prompts),
        "methods": {name: named.kind for name, named in experiment.methods.items()},
        "models": list(experiment.models),
        "objectives": list(experiment.objectives),
        "held_out": {objective: list(experiment.held_out_from(objective)) for objective in experiment.objectives},
        "budgets": [described(budget) for budget in config["budgets"]],
        "seeds": list(experiment.seeds),
        "ties": _ties(rows),
        "baseline": base,
        "repeated": "prompts" if found.single else "seeds",
        "config": _yaml(config),
        "about": dict(run.about),
        "cells": [_cell(found, row, own) for row, own in zip(rows, of.values(), strict=True)],
        "searches": [_line(search, list(of).index(key_of(run, search.unit))) for search in searches],
    }


def _ties(rows: Sequence[Row]) -> list[str]:
    """How often rewards tie, for each model and objective."""
    places = dict.fromkeys((row.model, row.objective) for row in rows)
    said = [(place, ties_of([row for row in rows if (row.model, row.objective) == place])) for place in places]
    return [text if len(places) == 1 else f"{' under '.join(place)}: {text}" for place, text in said]


def _yaml(config: dict[str, Any]) -> str:
    with optional():
        import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)


def _cell(found: Found, row: Row, own: Sequence[Search]) -> dict[str, Any]:
    """A line of the figures and tables: what a comparison's row says, and the plan."""
    cell, unit = found.cells[row.key], own[0].unit
    seconds = sum(search.seconds for search in cell.searches)
    said = {row.objective: row.reward, **row.held_out}
    return {
        **{"model": row.model, "objective": row.objective, "method": row.method, "budget": unit.budget},
        "plan": _plan(own),
        "curve": [[step, *best.own, best.rejected] for step, best in along(found, cell).items()],
        "rewards": {
            "n": len(cell.scores[None]),
            "of": len(found.planned[row.key]),
            "images": len(own[0].records),
            "means": {name: list(estimate.own) for name, estimate in said.items()},
            "rejected": {name: estimate.rejected for name, estimate in said.items()},
            "above": None if row.reward.above is None else list(row.reward.above),
            "pairs": None if row.reward.pairs is None else [*row.reward.pairs, row.reward.pairs.is_clear],
            "kl": row.kl,
            "ess": row.ess,
        },
        "bill": {
            **{kind: [getattr(row, kind)[unit] for unit in Bill._fields] for kind in ("bill", "planned")},
            "units": len(cell.searches),
            "pooled": cell.pooled,
            "seconds": seconds,
            "seconds_a_prompt": seconds / sum(len(search.unit.positions) for search in cell.searches),
            "peak_bytes": row.peak_bytes,
        },
    }


def _plan(own: Sequence[Search]) -> dict[str, Any]:
    """b(t), w(t) and rows of each step, these as they were drawn, a group's mean."""
    first = own[0]
    counts = [[_drawn(search, i) for search in own] for i in range(len(first.rows))]
    return {"b": first.trace.alive, "w": first.trace.width, "rows": [fmean(count) for count in counts]}


def _drawn(search: Search, step: int) -> int:
    values = search.values(step)
    return search.rows[step] if values is None else int((values != -math.inf).sum())


def _line(search: Search, cell: int) -> dict[str, Any]:
    """A search's place, and its images: (position, reward, held_out, KL, ancestor) of each."""
    return {
        "cell": cell,
        "seed": search.unit.seed,
        "positions": list(search.positions),
        "images": [
            [r["position"], r["reward"], list(r["held_out"].values()), r["kl"], r["ancestor"]] for r in search.records
        ],
    }


def lineage(search: Search) -> dict[str, Any]:
    """A search as the page draws it: who was drawn, with which value, who was kept, and which path led to the images.

    Candidate j of step i is a child of beam `j // width[i]`, which is candidate `child[i - 1][beam]` of the step
    before, or beam `beam` of x_T. `values` are float32, of the scored steps one after another; `child` is None where
    all candidates lived on in their order. `reached` are the levels of a search that goes back in noise, `parent` of a
    tree which node of the level before each node came from; all nodes live on.
    """
    trace, b = search.trace, search.group
    values = [search.values(i) for i in range(len(trace.alive))]
    scored = [part for part in values if part is not None]
    pooled = len(search.positions) > 1
    return {
        "alive": trace.alive,
        "width": trace.width,
        "reached": trace.reached,
        "scored": [part is not None for part in values],
        "values": base64.b64encode(torch.cat(scored).numpy().astype("<f4").tobytes()).decode() if scored else "",
        "child": [_moved(child[b, :n].tolist(), n) for child, n in zip(trace.child, search.rows, strict=True)],
        "parent": None if trace.parent is None else [search.parents(step) for step in range(len(trace.alive))],
        "order": trace.order[b].tolist(),
        "path": search.path.tolist(),
        "ancestor": search.ancestor.tolist(),
        "prompts": [search.positions[k % len(search.positions)] for k in range(trace.alive[0])] if pooled else None,
    }


def _moved(child: list[int], candidates: int) -> list[int] | None:
    return None if child == list(range(candidates)) else child
