"""The merged records of several runs: by model, objective, budget and method."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..experiments.experiment import ExperimentError, Model, Named, Unit, described, near
from ..experiments.folder import Run
from .intervals import over_seeds
from .reading import reading
from .scores import Scores

Limits = tuple[tuple[str, float], ...]
"""A budget: pairs of unit and limit, by unit; empty for methods as given."""

Place = tuple[int, int]
"""A seed and a prompt's position."""


class Key(NamedTuple):
    """What a row of the table is: one method under one objective at one budget on one model."""

    model: str
    objective: str
    budget: Limits
    method: str

    def __str__(self) -> str:
        return f"{self.method} under {self.objective} {'at ' if self.budget else ''}{described(dict(self.budget))}"


class Search(NamedTuple):
    """A finished unit and where it lies.

    Attributes:
        run, unit: which.
        groups: prompts in it, or pools of them.
        bill: of a group, counted.
        planned: of a group, as the plan said.
        seconds: held-out rewards included.
        peak_bytes: where the system could say.
        first: whether it is the first of its model in its run, which warms up.
    """

    run: Run
    unit: Unit
    groups: int
    bill: Mapping[str, int]
    planned: Mapping[str, int]
    seconds: float
    peak_bytes: int | None
    first: bool


@dataclass
class Cell:
    """All that one method did under one objective at one budget.

    Attributes:
        plain: whether nothing chooses, so that all images of a prompt count; of other methods the best one does.
        searches: finished units.
        scores: by name (None for the objective), then by place: the mean over the images that count and are not
            rejected (nan where all are), and the share of rejected ones.
        kl: known nats of the images that count.
        log_w: of the images that each search of a prompt or pool returned.
        pictures: one a place: the best; of those that nothing chose, the first drawn.
        covered: places that are finished.
        ties: for each search of a prompt or pool that ended with several candidates, whether the best reward is shared.
        verdicts: of a final choice, comparisons of a search and those of them without a winner.
    """

    plain: bool = False
    searches: list[Search] = field(default_factory=list)
    scores: dict[str | None, dict[Place, tuple[float, float]]] = field(default_factory=dict)
    kl: dict[Place, list[float]] = field(default_factory=dict)
    log_w: list[list[float]] = field(default_factory=list)
    pictures: dict[Place, Path] = field(default_factory=dict)
    covered: set[Place] = field(default_factory=set)
    ties: list[bool] = field(default_factory=list)
    verdicts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def pooled(self) -> bool:
        """Whether prompts share a pool, so that the bill of a group is that of several."""
        return any(s.groups < len(s.unit.positions) for s in self.searches)

    @property
    def seeds(self) -> list[int]:
        """Those of which something is finished."""
        return sorted({seed for seed, _ in self.covered})

    def of(self, name: str | None, seeds: Sequence[int], prompts: int) -> Scores:
        """What a reward says, `[S, P]`, of these seeds."""
        held = self.scores.get(name, {})
        rows = [held.get((seed, position), (nan, nan)) for seed in seeds for position in range(prompts)]
        table = torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(len(seeds), prompts, 2)
        return Scores(*table.unbind(-1))

    def repeated(self, prompts: int) -> bool:
        """Whether a prompt, or a pool of prompts, has two seeds, finite or rejected."""
        there = self.of(None, self.seeds, prompts).rejected
        return over_seeds(there, self.pooled) is not None

    def add(self, run: Run, unit: Unit, first: bool) -> bool:
        """Takes a finished unit in, unless it is there already; says whether it did."""
        places = {(unit.seed, position) for position in unit.positions}
        if places <= self.covered:
            return False
        with reading(run, unit):
            self._take(run, unit, first)
        self.covered |= places
        return True

    def _take(self, run: Run, unit: Unit, first: bool) -> None:
        records, timing = run.records_of(unit), run.timing(unit)
        groups = sum(record["rank"] == 0 for record in records)
        bills = records[0]["bill"], records[0]["planned"]
        self.searches.append(Search(run, unit, groups, *bills, timing["seconds"], timing["peak_bytes"], first))
        ranked = sorted(records, key=lambda record: (record["position"], record["rank"]))
        found = [list(own) for _, own in groupby(ranked, key=lambda record: record["position"])]
        for own in found:
            place = unit.seed, own[0]["position"]
            if place not in self.covered:
                self._count(place, own, run)
        by_group = found if groups == len(unit.positions) else [ranked]
        self._tied(by_group, run.trace(unit).values[-1])
        for group in by_group:
            # A record cannot say that a weight is 0.
            self.log_w.append([-inf if record["log_w"] is None else record["log_w"] for record in group])

    def _tied(self, groups: Sequence[Sequence[Mapping[str, Any]]], final: Tensor | None) -> None:
        """Whether candidates share the best reward: all clean ones where they were scored, else the images returned."""
        for b, group in enumerate(groups):
            said = [-inf if record["reward"] is None else record["reward"] for record in group]
            if final is not None and len(final) == len(groups) and final.shape[1] > 1:
                said = final[b].tolist()
            if len(said) > 1 and max(said) > -inf:
                self.ties.append(said.count(max(said)) > 1)
            if "judged" in group[0]:
                self.verdicts.append((group[0]["judged"]["comparisons"], group[0]["judged"]["ties"]))

    def _count(self, place: Place, records: list[dict[str, Any]], run: Run) -> None:
        counted = records if self.plain else records[:1]
        for name in (None, *counted[0]["held_out"]):
            said = [record["reward"] if name is None else record["held_out"][name] for record in counted]
            known = [value for value in said if value is not None and isfinite(value)]  # JSON cannot say -inf
            mean = sum(known) / len(known) if known else nan
            self.scores.setdefault(name, {})[place] = mean, 1 - len(known) / len(said)
        self.kl[place] = [record["kl"] for record in counted if record["kl"] is not None]
        shown = min(counted, key=lambda record: record["ancestor"])
        if (picture := run.image(shown)) is not None:
            self.pictures[place] = picture


class Found:
    """The merged records of several runs.

    Raises:
        ExperimentError: where they ask different prompts, or call different things alike.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        if not runs:
            raise ExperimentError("nothing to compare; name a run's folder")
        self.runs = list(runs)
        for i, run in enumerate(self.runs):
            for before in self.runs[:i]:
                _fits(before, run)
        self.prompts = self.runs[0].experiment.prompts
        self.models: dict[str, Model] = self._all("models")
        self.methods: dict[str, Named] = self._all("methods")
        self.rewards: dict[str, Named] = self._all("rewards")
        self.objectives = list(dict.fromkeys(objective for run in self.runs for objective in run.experiment.objectives))
        self.planned: dict[Key, set[Place]] = {}
        for run in self.runs:
            for unit in run.units:
                self.planned.setdefault(key_of(run, unit), set()).update((unit.seed, p) for p in unit.positions)
        self.twice = 0

    @property
    def names(self) -> list[str]:
        """Of the methods."""
        return list(self.methods)

    @property
    def single(self) -> bool:
        """Whether nothing is repeated: one seed throughout."""
        return len({seed for places in self.planned.values() for seed, _ in places}) == 1

    def baseline(self, given: str | None) -> str:
        """The method that the others are paired with.

        Raises:
            ExperimentError: for a method that is not there, a single seed, or seeds that do not pair.
        """
        if given is not None and given not in self.methods:
            raise ExperimentError(f"baseline: no method is called {given!r}{near(given, self.methods)}")
        base = given or usual_baseline(self.methods)
        for key, places in self.planned.items():
            seeds = {seed for seed, _ in places}
            if len(seeds) < 2:
                raise ExperimentError(
                    f"{key} has a single seed, {min(seeds)}: one repetition has no interval, and nothing could be told "
                    "from noise; run 2 seeds or more, better 5"
                )
            theirs = {seed for seed, _ in self.planned.get(self.beside(key, base), places)}
            if len(seeds & theirs) < 2:
                raise ExperimentError(
                    f"{key} has the seeds {listed(seeds)} and {base} has {listed(theirs)}: fewer than 2 pair; run both "
                    "with the same seeds"
                )
        return base

    def beside(self, key: Key, base: str) -> Key:
        """The baseline's cell that a cell is paired with: at the same budget.

        Plain sampling's mean does not hang on how many samples there are, so if it has one budget, that is taken.
        """
        same = key._replace(method=base)
        if same not in self.planned and self.methods[base].kind == "plain":
            others = [k for k in self.planned if k._replace(budget=key.budget) == same]
            return others[0] if len(others) == 1 else same
        return same

    @cached_property
    def cells(self) -> dict[Key, Cell]:
        """What is finished, in the order of the table."""
        cells = {key: Cell(_is_plain(self.methods[key.method])) for key in sorted(self.planned, key=self._order)}
        for run in self.runs:
            firsts = {unit.model: unit.index for unit in reversed(run.units)}
            for unit in run.finished:
                self.twice += not cells[key_of(run, unit)].add(run, unit, firsts[unit.model] == unit.index)
        return cells

    @cached_property
    def ready(self) -> dict[Key, Cell]:
        """Of what is finished, that which has two seeds of a prompt.

        Raises:
            ExperimentError: where nothing has.
        """
        ready = {key: cell for key, cell in self.cells.items() if cell.repeated(len(self.prompts))}
        if not ready:
            there, total = sum(len(run.finished) for run in self.runs), sum(len(run.units) for run in self.runs)
            raise ExperimentError(
                f"{there} of {total} searches are finished, and no method has 2 seeds of a prompt: nothing could be "
                "told from noise yet; let the run go on"
            )
        return ready

    def _all(self, part: str) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for run in self.runs:
            for name, thing in getattr(run.experiment, part).items():
                named.setdefault(name, thing)
        return named

    def _order(self, key: Key) -> tuple[Any, ...]:
        """By model, objective, budget and method: budgets by their size, the others as the experiments name them."""
        units, limits = tuple(unit for unit, _ in key.budget), tuple(limit for _, limit in key.budget)
        named = list(self.models).index(key.model), self.objectives.index(key.objective)
        return (*named, units, limits, self.names.index(key.method))


def key_of(run: Run, unit: Unit) -> Key:
    """The row that a unit belongs to."""
    return Key(unit.model, unit.objective, tuple(sorted(run.experiment.budgets[unit.budget].items())), unit.method)


def _fits(one: Run, other: Run) -> None:
    """Refuses runs that ask different prompts, or that call different things alike."""
    ours, theirs = one.experiment, other.experiment
    if ours.prompts != theirs.prompts:
        apart = [f"{short(a)} and {short(b)}" for a, b in zip(ours.prompts, theirs.prompts, strict=False) if a != b]
        said = f"{apart[0]}, the first" if apart else f"{len(ours.prompts)} and {len(theirs.prompts)} of them"
        raise ExperimentError(f"{one.folder} and {other.folder} ask different prompts ({said}) and do not compare")
    for part in ("models", "rewards", "methods"):
        mine = getattr(ours, part)
        for name, thing in getattr(theirs, part).items():
            if name in mine and _what(mine[name]) != _what(thing):
                raise ExperimentError(
                    f"{part}: {name!r} is one thing in {one.folder} and another in {other.folder}; give one of them "
                    "another name"
                )


def _what(thing: Model | Named) -> tuple[Any, ...]:
    """A model wherever it runs; a reward or a method as it is."""
    if isinstance(thing, Model):
        return thing.pipeline, thing.num_steps, thing.dtype, thing.preview, dict(thing.args), dict(thing.call)
    return thing.kind, dict(thing.args)


def usual_baseline(methods: Mapping[str, Named]) -> str:
    """The first best_of_n, or else the first."""
    return next((name for name in methods if methods[name].kind == "best_of_n"), next(iter(methods)))


def listed(numbers: Iterable[int]) -> str:
    """Whole numbers in words, ranges where they are neighbours."""
    ordered = enumerate(sorted(numbers))
    runs = [[n for _, n in group] for _, group in groupby(ordered, key=lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def short(text: str) -> str:
    """A prompt as far as a sentence holds it."""
    return repr(textwrap.shorten(text, 40, placeholder="…"))


def _is_plain(named: Named) -> bool:
    """Whether nothing chooses among the images."""
    return named.kind == "plain" and named.args.get("final") is None
