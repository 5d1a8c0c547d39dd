"""A pipeline's own call beside one that is replayed turn by turn: the check before a first search."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._replay import Replay, capture, schedulers

__all__ = ["Differences", "differences", "refuse_what_differs"]

_STEPS = 3
_CHECKED: set[tuple[type, type]] = set()


class Differences(NamedTuple):
    """Largest differences to the pipeline's own numbers, in their own standard deviations; 0 is bit for bit.

    Attributes:
        output: of what the pipeline returns, all levels in order.
        shuffled: of the network's output, levels asked again in another order.
        rows: of the network's output, rows together and one by one; None where a call makes one sample only.
    """

    output: float
    shuffled: float
    rows: float | None


def differences(home: Replay, pipe: Any, call: Mapping[str, Any], exchanged: Mapping[str, Any]) -> Differences:
    """Runs the pipeline's call, with the scheduler's own steps, by itself and replayed.

    Args:
        home: a call of the pipeline that was left at its loop, for its layout.
        pipe: the pipeline.
        call: the arguments of a call of one row.
        exchanged: schedulers in the place of the pipeline's own.
    """
    raise NotImplementedError


def refuse_what_differs(home: Replay, pipe: Any, call: Mapping[str, Any], exchanged: Mapping[str, Any]) -> None:
    """Raises a ValueError where the pipeline's class, with its scheduler's, is not replayed as it runs; asked once."""
