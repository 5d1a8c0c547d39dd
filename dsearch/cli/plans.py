"""A plan as lines of text: steps alike stand in one line, and cycles are told once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ..core.plan import Plan

__all__ = ["plan_lines"]


class Line(NamedTuple):
    """Steps alike: what they do, apart from which ones they are.

    Attributes:
        alive: beams before each.
        width: children per beam.
        rows: candidates of each; of an excursion the network rows of all its steps.
        score: whether they are scored.
        way: from which level to which.
    """

    alive: int
    width: int
    rows: int
    score: bool
    way: str


def plan_lines(plan: Plan) -> Iterator[str]:
    """The table that `dsearch plan` prints."""
    level_too = plan.route is not None
    yield "steps      beams  children  rows  scored" + level_too * "   levels"
    spans, lines = _runs(plan)
    for at, block, times in _cycles(lines):
        for i, line in enumerate(block):
            first, last = spans[at + i]
            span = f"{first}" if first == last else f"{first}-{last}"
            counts = f"{line.alive:6} {line.width:9} {line.rows:5}  {'yes' if line.score else 'no'}"
            yield f"{span:9} {counts:31}  {line.way}" if level_too else f"{span:9} {counts}"
        if times > 1:
            yield f"... {times} times in all, to step {spans[at + times * len(block) - 1][1]}"


def _runs(plan: Plan) -> tuple[list[tuple[int, int]], list[Line]]:
    """The first and last step of each line, and the lines."""

    def like(i: int) -> tuple[int, int, int, bool, int]:
        return plan.alive[i], plan.width[i], plan.rows[i], plan.score[i], -i - 1 if plan.goes_back(i) else plan.legs[i]

    spans, lines = [], []
    for (alive, width, _, score, _), steps in groupby(range(plan.num_moves), key=like):
        first, *rest = steps
        last = rest[-1] if rest else first
        away, way = plan.away(first), f"{plan.levels[first]} to {plan.reached[last]}"
        rows = plan.rows[first] if away is None else plan.rows_of(first)
        if away is not None:
            homes = sorted({to for to in away if to < plan.levels[first]})
            way = f"{plan.levels[first]} back to {', '.join(map(str, homes))}, and down again"
        elif plan.goes_back(first):
            way = f"{plan.levels[first]} back to {plan.reached[first]}"
        spans.append((first, last))
        lines.append(Line(alive, width, rows, score, way))
    return spans, lines


def _cycles(lines: Sequence[Line]) -> Iterator[tuple[int, Sequence[Line], int]]:
    """Where each block of lines begins, the block, and how many times in a row it stands there; a cycle goes back."""
    at = 0
    while at < len(lines):
        period, times = 1, 1
        for p in range(1, (len(lines) - at) // 2 + 1 if " back to " in lines[at].way else 1):
            n = 1
            while lines[at + n * p : at + (n + 1) * p] == lines[at : at + p]:
                n += 1
            if n > 1:
                period, times = p, n
                break
        yield at, lines[at : at + period], times
        at += period * times
