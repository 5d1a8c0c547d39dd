"""A pipeline's own call beside one that is replayed turn by turn: the check before a first search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._replay import Layout, Replay, capture, copied_pipe, fresh, schedulers, seeded, tensors

__all__ = ["Differences", "Together", "checked", "differences"]

_STEPS = 3
_BOUND = {torch.float16: 0.05, torch.bfloat16: 0.2}  # of a standard deviation; batched rows round differently
_CHECKED: dict[Any, Together] = {}


class Differences(NamedTuple):
    """Largest differences to the pipeline's own numbers, in their standard deviations; 0 is bit for bit.

    Attributes:
        output: of what the pipeline returns, all levels in order.
        shuffled: of the network's output, levels asked again in another order.
        rows: of the network's output, rows together and one by one; infinite where they cannot go together.
        decoded: of what the pipeline returns, rows together and one by one; infinite where they cannot go together.
    """

    output: float
    shuffled: float
    rows: float
    decoded: float


class Together(NamedTuple):
    """Whether rows of a pipeline go together: through the turns of its loop, and through what follows the loop."""

    turns: bool
    tails: bool


@torch.no_grad()
def differences(
    pipe: Any, call: Mapping[str, Any], exchanged: Mapping[str, Any], layout: Layout | None = None
) -> Differences:
    """Runs the pipeline's call, with the scheduler's own steps, by itself and replayed.

    Args:
        pipe: the pipeline.
        call: the arguments of a call of one row.
        exchanged: schedulers in the place of the pipeline's own.
        layout: how the variables of a call grow with rows; None where it makes one sample only.
    """

    def drawing() -> dict[str, Any]:
        return {**call, **({"generator": fresh(call["generator"])} if "generator" in call else {})}

    with seeded(pipe._execution_device):
        own = tensors(copied_pipe(pipe, exchanged)(**drawing())[0])
    try:
        return _replayed(pipe, drawing(), exchanged, layout, own)
    except (LookupError, NameError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{type(pipe).__name__} is not replayed as it runs: asked for a level again, its own lines raise "
            f"{type(error).__name__}: {error}"
        ) from error


def _replayed(
    pipe: Any, call: Mapping[str, Any], exchanged: Mapping[str, Any], layout: Layout | None, own: Tensor
) -> Differences:
    with seeded(pipe._execution_device):
        calls = Replay([capture(pipe, call, exchanged)], layout)
        x, asked = calls.frames[0].values[calls.source.state], []
        for level in range(len(calls.items)):
            step = calls.turn(x, level, [0])
            asked.append((x, step.out))
            made = calls.scheduler.step(**step.arguments)
            x = calls.rest(made[0], step.needs, step.place, level, 1, quiet=False)
        output = _far(own, tensors(calls.tail(x)[0]))
    again = [(level, *asked[level]) for level in _shuffled(len(asked))]
    shuffled = max(_far(out, calls.turn(x, level, [0]).out) for level, x, out in again)
    rows = decoded = torch.inf
    if layout is not None:
        level = len(asked) // 2
        xs = torch.cat([x for x, _ in asked])
        one_by_one = torch.cat([calls.turn(x[None], level, [0]).out for x in xs])
        # Shapes that do not meet: it cannot take them together.
        with suppress(RuntimeError, ValueError, IndexError):
            rows = _far(one_by_one, calls.turn(xs, level, [0] * len(xs)).out)
        xs = torch.cat([x, asked[0][0]])
        with suppress(RuntimeError, ValueError, IndexError):
            apart = torch.cat([tensors(calls.tail(x[None])[0]) for x in xs])
            decoded = _far(apart, tensors(calls.tail(xs)[0]))
    return Differences(output, shuffled, rows, decoded)


def checked(pipe: Any, call: Mapping[str, Any], exchanged: Mapping[str, Any], layout: Layout | None) -> Together:
    """Whether rows of the pipeline can go together; asked once for each class, scheduler, precision and device.

    Raises:
        ValueError: where the pipeline is not replayed as it runs, with the difference.
    """
    kinds = tuple(type(each) for each in {**schedulers(pipe), **exchanged}.values())
    key = type(pipe), kinds, pipe.dtype, str(pipe._execution_device), frozenset(call)
    if key not in _CHECKED:
        try:
            found = differences(pipe, _short(call), exchanged, layout)
        except ValueError:  # other arguments may fit the number of steps
            found = differences(pipe, call, exchanged, layout)
        bound = _BOUND.get(pipe.dtype, 1e-3)
        for what, far in (("its own output differs", found.output), (_HISTORY, found.shuffled)):
            if not far <= bound:
                raise ValueError(
                    f"{type(pipe).__name__} is not replayed as it runs: {what} by {far:.2g} standard deviations, more "
                    f"than {bound}; report it, or pass check=False if you know why"
                )
        _CHECKED[key] = Together(found.rows <= bound, found.decoded <= bound)
    return _CHECKED[key]


def _short(call: Mapping[str, Any]) -> dict[str, Any]:
    """The same call of few steps, as far as it says how many."""
    steps, strength = call.get("num_inference_steps"), call.get("strength") or 1.0
    return {**call, **({} if steps is None else {"num_inference_steps": min(steps, math.ceil(_STEPS / strength))})}


_HISTORY = "the network's output at a level depends on the turns before, and differs"


def _shuffled(n: int) -> list[int]:
    """All levels, neither rising nor falling."""
    return [*range(1, n, 2), *range(n - 1 - (n - 1) % 2, -1, -2)]


def _far(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return torch.inf
    spread = float(one.float().std()) if one.numel() > 1 else 0.0
    return float((one.float() - other.float()).abs().max()) / (spread or 1.0)
