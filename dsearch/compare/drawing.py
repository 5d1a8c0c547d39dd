"""The plots of the field. Files are named by counters: no name of a method, guide or prompt becomes a path."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..experiments.folder import Trace
from ..plots import Panel, Series, curves, from_png, grid
from .anchors import Anchor
from .cells import Cell, Found, Key, Limits
from .metrics import Interval
from .ranks import rank_correlation
from .rows import Estimate, Row
from .words import count, observed, words

COLUMNS = 8
"""Prompts that a grid shows."""

Drawn = tuple[str, Callable[[Path], object]]
Correlations = dict[tuple[str, str, str], dict[int, Interval]]


def draw(
    found: Found,
    cells: Mapping[Key, Cell],
    rows: Sequence[Row],
    anchors: Mapping[str, Sequence[tuple[str, Anchor, str]]],
    out: Path,
) -> tuple[Correlations, list[Path]]:
    """Draws everything; returns the rank correlations, which are computed here, and the files."""
    correlations: Correlations = {}
    files = []
    for m, model in enumerate(found.models):
        own = [row for row in rows if row.model == model]
        if own:
            known = _correlations(cells, own)
            correlations |= known
            drawn = [*_of_table(found, own, anchors.get(model, ()), m), *_on_the_way(found, known, m)]
            for name, make in [*drawn, *_grids(found, cells, own, m)]:
                make(out / name)
                files.append(out / name)
    return correlations, files


def _of_table(found: Found, rows: Sequence[Row], anchors: Sequence[tuple[str, Anchor, str]], m: int) -> Iterator[Drawn]:
    for unit in dict.fromkeys(_unit(row.budget) for row in rows):
        own = [row for row in rows if _unit(row.budget) == unit]
        yield f"reward_{m}_{unit}.png", partial(_rewards, own, anchors, found.names)
    if any(row.observed for row in rows):
        yield f"pareto_{m}.png", partial(_pareto, rows, found.names)


def _on_the_way(found: Found, known: Correlations, m: int) -> Iterator[Drawn]:
    if known:
        yield f"correlation_{m}.png", partial(_trends, known, found.names)


def _grids(found: Found, cells: Mapping[Key, Cell], rows: Sequence[Row], m: int) -> Iterator[Drawn]:
    for g, (guide, own) in enumerate(_by_guide(rows)):
        keys = [key for key in cells if (key.model, key.guide, key.budget) == (own[0].model, guide, _largest(own))]
        if any(cells[key].pictures for key in keys):
            shown = {key.method: cells[key] for key in keys}
            yield f"grid_{m}_{g}.png", partial(_grid, shown, found.prompts)


def _unit(budget: Limits) -> str:
    """The unit in which a budget is drawn: its own, network rows where it has several."""
    units = [unit for unit, _ in budget]
    return "as_given" if not units else "model_calls" if "model_calls" in units else units[0]


def _largest(rows: Sequence[Row]) -> Limits:
    """The budget at which most network rows were spent."""
    return max(rows, key=lambda row: row.bill["model_calls"]).budget


def _by_guide(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(guide, [r for r in rows if r.guide == guide]) for guide in dict.fromkeys(row.guide for row in rows)]


def _upright(columns: Sequence[Sequence[Panel]]) -> list[list[Panel | None]]:
    """Columns of panels -> rows of them, with gaps where a column is short."""
    height = max(map(len, columns))
    return [[column[i] if i < len(column) else None for column in columns] for i in range(height)]


def _rewards(rows: Sequence[Row], anchors: Sequence[tuple[str, Anchor, str]], names: Sequence[str], path: Path) -> None:
    """Reward against what was spent, and below it what watches: over-optimisation is where the two part."""
    unit = _unit(rows[0].budget)
    spent = "model_calls" if unit == "as_given" else unit
    columns = []
    for guide, own in _by_guide(rows):
        beside = [anchor for steered, anchor, _ in anchors if steered == guide and anchor.drawn]
        levels = {name: value for anchor in beside for name, value in anchor.values.items()}
        sources = "".join(f"\ndashed: {anchor.source}" for anchor in beside)
        own_panel = _against(own, spent, lambda row: row.reward, f"guided by {guide}{sources}", guide)
        column = [own_panel._replace(levels=levels)]
        for name in dict.fromkeys(name for row in own for name in row.observed):
            title = f"what {name} says, guided by {guide}"
            column.append(_against(own, spent, partial(observed, name), title, name))
        columns.append(column)
    spread = [row.spent(spent) for row in rows]
    curves(_upright(columns), path, log_x=max(spread) >= 1.5 * min(spread) > 0 and not _single(rows), names=names)


def _single(rows: Sequence[Row]) -> bool:
    """Whether there is no curve, but one point a method."""
    places = [(row.guide, row.method) for row in rows]
    return len(places) == len(set(places))


def _against(rows: Sequence[Row], spent: str, of: Callable[[Row], Estimate | None], title: str, y: str) -> Panel:
    """A curve a method against what it spent; where there is one budget, points beside one another."""
    label, single = f"{words(spent)} a prompt, counted", _single(rows)
    series, ticks = dict[str, Series](), dict[float, str]()
    for i, method in enumerate(dict.fromkeys(row.method for row in rows)):
        known = [(row.spent(spent), e.own) for row in rows if row.method == method if (e := of(row))]
        if single and known:
            ticks[i] = count(known[0][0])
            known = [(i, known[0][1])]
        if known:
            x, said = zip(*sorted(known), strict=True)
            series[method] = _banded(x, said)
    limits = {limit for row in rows for unit, limit in row.budget if unit == spent}
    return Panel(title, label, y, series, ticks=ticks or {limit: f"{limit:,}" for limit in sorted(limits)})


def _banded(x: Sequence[float], said: Sequence[Interval]) -> Series:
    return Series(x, [i.mean for i in said], [i.low for i in said], [i.high for i in said])


def _pareto(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
    """What is reached against what the held-out rewards say: a point a method and budget, larger for larger ones."""
    columns = []
    for guide, own in _by_guide(rows):
        held_out = dict.fromkeys(name for row in own for name in row.observed)
        columns.append([_held_out(own, guide, name) for name in held_out])
    curves(_upright([column for column in columns if column]), path, names=names)


def _held_out(rows: Sequence[Row], guide: str, name: str) -> Panel:
    series, points = {}, []
    for method in dict.fromkeys(row.method for row in rows):
        known = [row for row in rows if row.method == method and name in row.observed]
        known.sort(key=lambda row: row.bill["model_calls"])
        if known:
            x = [row.reward.own for row in known]
            own = _banded([i.mean for i in x], [row.observed[name].own for row in known])
            series[method] = own._replace(x_intervals=[(i.low, i.high) for i in x])
            points += list(zip(own.x, own.y, strict=True))
    return Panel(f"guided by {guide}", guide, f"{name}, which watches", series, front=front(points))


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other reaches in both numbers and exceeds in one, from left to right."""
    best: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best[::-1]


def _correlations(cells: Mapping[Key, Cell], rows: Sequence[Row]) -> Correlations:
    """At the largest budget of each guide, where there are values on the way and points enough."""
    known = {}
    for guide, own in _by_guide(rows):
        for row in own:
            if row.budget == _largest(own):
                key = Key(row.model, guide, row.budget, row.method)
                searches: dict[int, list[tuple[Trace, Sequence[int]]]] = {}
                for s in cells[key].searches:
                    searches.setdefault(s.unit.seed, []).append((s.run.trace(s.unit), s.unit.positions))
                if steps := rank_correlation(searches):
                    known[row.model, guide, row.method] = steps
    return known


def _trends(known: Correlations, names: Sequence[str], path: Path) -> None:
    panels = []
    for guide in dict.fromkeys(guide for _, guide, _ in known):
        series = {
            name: _banded([step + 1 for step in steps], list(steps.values()))
            for (_, of, name), steps in known.items()
            if of == guide
        }
        title = f"guided by {guide}: value on the way and final reward"
        panels.append(Panel(title, "step (0 is pure noise)", "rank correlation within a prompt", series))
    curves([panels], path, names=names)


def _grid(cells: Mapping[str, Cell], prompts: Sequence[str], path: Path) -> None:
    """The pictures of the first seed, a row a method; white where there is none."""
    seed = min(place[0] for cell in cells.values() for place in cell.pictures)
    some = next(file for cell in cells.values() for file in cell.pictures.values())
    columns, white = range(min(len(prompts), COLUMNS)), torch.ones_like(from_png(some))
    rows = [[_picture(cell.pictures.get((seed, p)), white) for p in columns] for cell in cells.values()]
    titles = ["\n".join(textwrap.wrap(prompts[p], 16, max_lines=3, placeholder="…")) for p in columns]
    grid(rows, ["\n".join(textwrap.wrap(name, 20)) for name in cells], titles, path)


def _picture(file: Path | None, white: Tensor) -> Tensor:
    return white if file is None else from_png(file)
