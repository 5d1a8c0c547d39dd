"""The plots of the field. Files are named by counters: no name of a method, objective or prompt becomes a path."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import isnan
from pathlib import Path

import torch
from torch import Tensor

from ..experiments.folder import Trace
from ..plots import Panel, Series, curves, from_png, grid
from .along import along
from .anchors import Anchor
from .cells import Cell, Found, Key, Limits
from .intervals import Estimate
from .metrics import Interval
from .ranks import rank_correlation
from .reading import reading
from .rows import Row
from .words import count, held_out, percent, words

COLUMNS = 8
"""Pictures that a row of a grid shows."""

Drawn = tuple[str, Callable[[Path], object]]
Correlations = dict[tuple[str, str, str], dict[int, Interval]]

LEVEL = "level (0 is pure noise)"


def draw(
    found: Found, rows: Sequence[Row], anchors: Mapping[str, Sequence[tuple[str, Anchor, str]]], out: Path
) -> tuple[Correlations, list[Path]]:
    """Draws everything; returns the rank correlations, which are computed here, and the files."""
    correlations: Correlations = {}
    files = []
    for m, model in enumerate(found.models):
        own = [row for row in rows if row.model == model]
        if own:
            known = _correlations(found, own)
            correlations |= known
            drawn = [*_of_table(found, own, anchors.get(model, ()), m), *_on_the_way(found, own, known, m)]
            for name, make in [*drawn, *_grids(found, own, m)]:
                make(out / name)
                files.append(out / name)
    return correlations, files


def _of_table(found: Found, rows: Sequence[Row], anchors: Sequence[tuple[str, Anchor, str]], m: int) -> Iterator[Drawn]:
    for unit in dict.fromkeys(_unit(row.budget) for row in rows):
        own = [row for row in rows if _unit(row.budget) == unit]
        yield f"reward_{m}_{unit}.png", partial(_rewards, own, anchors, found.names)
    if any(row.held_out for row in rows):
        yield f"pareto_{m}.png", partial(_pareto, rows, found.names)


def _on_the_way(found: Found, rows: Sequence[Row], known: Correlations, m: int) -> Iterator[Drawn]:
    paths = {row.key: along(found, found.cells[row.key]) for row in _largest(rows)}
    if any(len(steps) > 1 for steps in paths.values()):
        yield f"along_{m}.png", partial(_along, paths, found.names)
    if known:
        yield f"correlation_{m}.png", partial(_trends, known, found.names)


def _grids(found: Found, rows: Sequence[Row], m: int) -> Iterator[Drawn]:
    shown = {row.key: found.cells[row.key] for row in _largest(rows)}
    objectives = [
        objective
        for objective, _ in _by_objective(rows)
        if any(shown[k].pictures for k in shown if k.objective == objective)
    ]
    prompts = found.prompts[:COLUMNS]
    many = max(1, COLUMNS // len(prompts))
    for g in range(0, len(objectives), many):
        yield f"grid_{m}_{g}.png", partial(_grid, shown, objectives[g : g + many], prompts)


def _unit(budget: Limits) -> str:
    """The unit in which a budget is drawn: its own, network rows where it has several or none."""
    units = [unit for unit, _ in budget]
    return units[0] if units and "model_calls" not in units else "model_calls"


def _largest(rows: Sequence[Row]) -> list[Row]:
    """Of each method under each objective, the row at which most network rows were spent."""
    most: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row.bill["model_calls"], reverse=True):
        most.setdefault((row.objective, row.method), row)
    return [row for row in rows if row in most.values()]


def _by_objective(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [
        (objective, [r for r in rows if r.objective == objective])
        for objective in dict.fromkeys(row.objective for row in rows)
    ]


def _upright(columns: Sequence[Sequence[Panel]]) -> list[list[Panel | None]]:
    """Columns of panels -> rows of them, with gaps where a column is short."""
    height = max(map(len, columns))
    return [[column[i] if i < len(column) else None for column in columns] for i in range(height)]


def _rewards(rows: Sequence[Row], anchors: Sequence[tuple[str, Anchor, str]], names: Sequence[str], path: Path) -> None:
    """Reward against what was spent, and below it the held-out rewards: over-optimisation is where the two part."""
    spent = _unit(rows[0].budget)
    columns = []
    for objective, own in _by_objective(rows):
        beside = [anchor for steered, anchor, _ in anchors if steered == objective and anchor.drawn]
        levels = {name: value for anchor in beside for name, value in anchor.values.items()}
        sources = "".join(f"\ndashed: {anchor.source}" for anchor in beside)
        own_panel = _against(own, spent, lambda row: row.reward, f"searched for {objective}{sources}", objective)
        column = [own_panel._replace(levels=levels)]
        for name in dict.fromkeys(name for row in own for name in row.held_out):
            title = f"what {name} says, searched for {objective}"
            column.append(_against(own, spent, partial(held_out, name), title, name))
        columns.append(column)
    spread = [row.spent(spent) for row in rows]
    curves(_upright(columns), path, log_x=max(spread) >= 1.5 * min(spread) > 0 and not _single(rows), names=names)


def _single(rows: Sequence[Row]) -> bool:
    """Whether there is no curve, but one point per method."""
    places = [(row.objective, row.method) for row in rows]
    return len(places) == len(set(places))


def _against(rows: Sequence[Row], spent: str, of: Callable[[Row], Estimate | None], title: str, y: str) -> Panel:
    """A curve per method, against what it spent; where there is one budget, points beside one another."""
    label, single = f"{words(spent)} per prompt, counted", _single(rows)
    series, ticks = dict[str, Series](), dict[float, str]()
    for i, method in enumerate(dict.fromkeys(row.method for row in rows)):
        said = [(row.spent(spent), e) for row in rows if row.method == method if (e := of(row))]
        known = [(x, e) for x, e in said if not isnan(e.own.mean)]
        if len(known) < len(said):
            title += f"\n{method}{'' if not known else ' in part'}: all rejected, not drawn"
        if single and known:
            ticks[i] = count(known[0][0])
            known = [(i, known[0][1])]
        if known:
            series[method] = _banded(*zip(*sorted(known), strict=True))
    limits = {limit for row in rows for unit, limit in row.budget if unit == spent}
    return Panel(title, label, y, series, ticks=ticks or {limit: f"{limit:,}" for limit in sorted(limits)})


def _banded(x: Sequence[float], said: Sequence[Estimate]) -> Series:
    mean, low, high = zip(*(e.own for e in said), strict=True)
    return Series(x, mean, low, high, said=["" if isnan(e.own.mean) else _left_out(e.rejected) for e in said])


def _left_out(*rejected: float) -> str:
    """What stands beside a mean, or two of one point: nothing where they leave nothing out."""
    shares = dict.fromkeys(percent(share) for share in rejected if share > 0)
    return f"{' / '.join(shares)} rejected" if shares else ""


def _pareto(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
    """What is reached against what the held-out rewards say: a point per method and budget, larger for larger ones."""
    columns = []
    for objective, own in _by_objective(rows):
        held_out = dict.fromkeys(name for row in own for name in row.held_out)
        columns.append([_held_out(own, objective, name) for name in held_out])
    curves(_upright([column for column in columns if column]), path, names=names)


def _held_out(rows: Sequence[Row], objective: str, name: str) -> Panel:
    series, points = {}, []
    for method in dict.fromkeys(row.method for row in rows):
        known = [
            row
            for row in rows
            if row.method == method and name in row.held_out
            if not isnan(row.reward.own.mean + row.held_out[name].own.mean)
        ]
        known.sort(key=lambda row: row.bill["model_calls"])
        if known:
            x, y = [row.reward for row in known], [row.held_out[name] for row in known]
            own = _banded([e.own.mean for e in x], y)
            said = [_left_out(a.rejected, b.rejected) for a, b in zip(x, y, strict=True)]
            series[method] = own._replace(x_intervals=[(e.own.low, e.own.high) for e in x], said=said)
            lost = [a.rejected + b.rejected for a, b in zip(x, y, strict=True)]
            points += list(zip(lost, own.x, own.y, strict=True))
    least = min((lost for lost, _, _ in points), default=0.0)
    kept = front([(x, y) for lost, x, y in points if lost <= least])  # a mean of fewer images beats nothing
    return Panel(f"searched for {objective}", objective, f"{name}, held out", series, front=kept)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other reaches in both numbers and exceeds in one, from left to right."""
    best: list[tuple[float, float]] = []
    for point in sorted(set(points), reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best[::-1]


def _correlations(found: Found, rows: Sequence[Row]) -> Correlations:
    """At the largest budget of each method, where there are values on the way and points enough."""
    known = {}
    for row in _largest(rows):
        searches: dict[int, list[tuple[Trace, Sequence[int]]]] = {}
        for s in found.cells[row.key].searches:
            with reading(s.run, s.unit):
                searches.setdefault(s.unit.seed, []).append((s.run.trace(s.unit), s.unit.positions))
        if steps := rank_correlation(searches):
            known[row.model, row.objective, row.method] = steps
    return known


def _along(paths: Mapping[Key, Mapping[int, Estimate]], names: Sequence[str], path: Path) -> None:
    """The best value at each step; what is valued at the end alone is a level to hold it against."""
    panels = []
    for objective in dict.fromkeys(key.objective for key in paths):
        own = {key.method: steps for key, steps in paths.items() if key.objective == objective}
        series = {
            name: _at_its_ends(_banded([step + 1 for step in steps], list(steps.values())))
            for name, steps in own.items()
            if len(steps) > 1
        }
        ends = {name: next(iter(steps.values())) for name, steps in own.items() if len(steps) == 1}
        levels = {
            f"{name} {_left_out(said.rejected)}".strip(): said.own.mean
            for name, said in ends.items()
            if not isnan(said.own.mean)
        }
        panels.append(Panel(f"searched for {objective}", LEVEL, f"best {objective}, estimated", series, levels))
    curves([panels], path, names=names)


def _at_its_ends(series: Series) -> Series:
    """What is said of a curve of many steps, at the first and the last alone."""
    return series._replace(said=[series.said[0], *[""] * (len(series.said) - 2), series.said[-1]])


def _trends(known: Correlations, names: Sequence[str], path: Path) -> None:
    panels = []
    for objective in dict.fromkeys(objective for _, objective, _ in known):
        series = {
            name: _banded([step + 1 for step in steps], [Estimate(one) for one in steps.values()])
            for (_, of, name), steps in known.items()
            if of == objective
        }
        title = f"searched for {objective}: value on the way and final reward"
        panels.append(Panel(title, LEVEL, "rank correlation within a prompt", series))
    curves([panels], path, names=names)


def _grid(shown: Mapping[Key, Cell], objectives: Sequence[str], prompts: Sequence[str], path: Path) -> None:
    """The pictures of the first seed, a row per method; white where there is none."""
    cells = {(key.method, key.objective): cell for key, cell in shown.items() if key.objective in objectives}
    methods = list(dict.fromkeys(method for method, _ in cells))
    seed = min(place[0] for cell in cells.values() for place in cell.pictures)
    white = torch.ones_like(from_png(next(file for cell in cells.values() for file in cell.pictures.values())))
    places = [(objective, p) for objective in objectives for p in range(len(prompts))]
    rows = [
        [_picture(cells.get((m, objective), Cell()).pictures.get((seed, p)), white) for objective, p in places]
        for m in methods
    ]
    titles = ["\n".join(textwrap.wrap(prompts[p], 16, max_lines=3, placeholder="…")) for _, p in places]
    if len(objectives) > 1:
        titles = [f"{title}\n{objective}" for title, (objective, _) in zip(titles, places, strict=True)]
    grid(rows, ["\n".join(textwrap.wrap(method, 20)) for method in methods], titles, path)


def _picture(file: Path | None, white: Tensor) -> Tensor:
    return white if file is None else from_png(file)
