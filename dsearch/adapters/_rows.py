"""How a pipeline's variables grow with the rows of a call, read off a call of one row and one of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.rng import move

__all__ = ["Growth", "alike", "by_length", "folded", "growth", "joined"]

_DEPTH = 6


class Growth(NamedTuple):
    """How a value grows.

    Attributes:
        kind: "axis" of a tensor, "length" of a list or tuple, a "number", or the "parts" of a list, tuple or dict.
        axis: which axis of a tensor.
        inner: whether rows are the faster axis, as in guidance's [without, with], or the slower, as in [rows, frames].
        parts: how the parts grow, those that do not left out.
    """

    kind: str
    axis: int = 0
    inner: bool = True
    parts: dict[Any, Growth] = {}  # noqa: RUF012  # never changed


def growth(one: Any, two: Any, depth: int = 0) -> Growth | None:
    """How a variable grows, from its values in a call of one row and of two; None where it does not."""
    if depth > _DEPTH or type(one) is not type(two):
        return None
    if isinstance(one, Tensor):
        return _of_tensor(one, two)
    if isinstance(one, list | tuple):
        if len(one) != len(two):
            return Growth("length", inner=_inner(one, two)) if len(two) == 2 * len(one) else None
        return _of_parts(dict(enumerate(one)), dict(enumerate(two)), depth)
    if isinstance(one, dict):
        return _of_parts(one, two, depth)
    if type(one) is int and one and two == 2 * one:
        return Growth("number")
    return None


def _of_parts(one: dict[Any, Any], two: dict[Any, Any], depth: int) -> Growth | None:
    found = {key: growth(one[key], two[key], depth + 1) for key in one if key in two}
    parts = {key: how for key, how in found.items() if how is not None}
    return Growth("parts", parts=parts) if parts else None


def _of_tensor(one: Tensor, two: Tensor) -> Growth | None:
    if one.ndim != two.ndim:
        return None
    axes = [k for k in range(one.ndim) if one.shape[k] != two.shape[k]]
    if len(axes) != 1 or two.shape[axes[0]] != 2 * one.shape[axes[0]]:
        return None
    axis = axes[0]
    times = one.shape[axis]
    slower = two.unflatten(axis, (2, times)).select(axis, 0)
    faster = two.unflatten(axis, (times, 2)).select(axis + 1, 0)
    inner = times == 1 or torch.equal(faster, one) or not torch.equal(slower, one)
    return Growth("axis", axis, inner)


def _inner(one: Sequence[Any], two: Sequence[Any]) -> bool:
    """Whether [a, b] became [a, a, b, b]; of tensors the shapes say so."""

    def look(part: Any) -> Any:
        return part.shape if isinstance(part, Tensor) else part if isinstance(part, str | int) else type(part)

    seen, twice = [look(part) for part in one], [look(part) for part in two]
    return twice != seen * 2 or [part for part in seen for _ in range(2)] == twice


def by_length(how: Growth) -> bool:
    """Whether a list or tuple grows, or a part that does."""
    return how.kind == "length" or any(map(by_length, how.parts.values()))


def joined(values: Sequence[Any], how: Growth | None, rows: Sequence[int] | Tensor) -> Any:
    """The variable for so many rows, `rows[r]` naming which of the values (of one row each) row r takes.

    Rows may be an index on the device where nothing grows by length.
    """
    first = values[0]
    if how is None:
        return first
    if how.kind == "number":
        return first * len(rows)
    if how.kind == "axis":
        at = how.axis + how.inner
        stacked = torch.stack(list(values), at)
        index = move(rows if isinstance(rows, Tensor) else torch.tensor(rows, device="cpu"), stacked.device)
        return stacked.index_select(at, index).flatten(how.axis, how.axis + 1)
    if how.kind == "length":
        named = list(rows)
        turns = [(k, r) for k in range(len(first)) for r in named]
        if not how.inner:
            turns = [(k, r) for r in named for k in range(len(first))]
        return _like(first, [values[r][k] for k, r in turns])
    if isinstance(first, dict):
        return {**first, **{key: joined([v[key] for v in values], part, rows) for key, part in how.parts.items()}}
    return _like(first, [joined([v[k] for v in values], how.parts.get(k), rows) for k in range(len(first))])


def alike(values: Sequence[Any], how: Growth | None) -> bool:
    """Whether values of one row each can be rows of one call: equal but for what grows, and that of equal shape."""
    first, others = values[0], values[1:]
    if any(type(other) is not type(first) for other in others):
        return False
    if how is not None and how.kind != "parts":
        return all(getattr(other, "shape", None) == getattr(first, "shape", None) for other in others)
    if isinstance(first, Tensor):
        return all(torch.equal(first, other) for other in others)
    if isinstance(first, list | tuple | dict):
        if any(len(other) != len(first) for other in others):
            return False
        keys = first if isinstance(first, dict) else range(len(first))
        parts = {} if how is None else how.parts
        return all(alike([value[key] for value in values], parts.get(key)) for key in keys)
    return not isinstance(first, str | int | float | bool) or all(other == first for other in others)


def _like(first: Any, parts: list[Any]) -> Any:
    make: Any = type(first)
    return make(*parts) if hasattr(first, "_fields") else make(parts)


def folded(value: Tensor, rows: int) -> Tensor:
    """`[R * F, ...] -> [R, F, ...]` where a tensor holds several entries of each row, as frames are."""
    if len(value) == rows:
        return value
    if len(value) % rows:
        raise ValueError(f"a tensor of shape {tuple(value.shape)} holds no whole number of entries for {rows} rows")
    return value.unflatten(0, (rows, len(value) // rows))
