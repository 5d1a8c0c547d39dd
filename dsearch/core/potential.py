"""Potentials: how values become importance weights.

Every one but `none` steers towards p(x_0) exp(lam r(x_0)): the log-weight of a path after step i is a target that
depends on the values r_1, ..., r_i seen along it, and at the clean end lam r(x_0), whatever it was before. So the
product of all increments telescopes to exp(lam r(x_0)), as Feynman-Kac steering asks of its last potential (Singhal et
al. 2025, arXiv 2501.06848). At which steps values are seen is the plan's choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .contract import Memory, Scores, precise, weight_dtype
from .resample import ess

__all__ = [
    "KINDS",
    "NoPotential",
    "Steering",
    "adaptive",
    "difference",
    "none",
    "plain",
    "running_max",
    "running_sum",
    "tempered",
]


class NoPotential:
    """Weights stay as they are: search, not sampling."""

    def initial(self, batch_shape: tuple[int, int], device: torch.device) -> Memory:
        """Nothing to remember."""
        return None

    def __call__(self, scores: Scores) -> tuple[Tensor, Memory]:
        """A zero increment `[B, N]`; what is remembered stays."""
        return torch.zeros_like(scores.log_w), scores.memory


none = NoPotential()

Target = Callable[[Scores, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(scores, total [B, N], state [B, N]) -> (the new total, the new state)`: the log-weight that a path should have."""

LARGEST = 1e100
"""Of a strength, and of a log-weight that is not -inf: far from where differences of float64 overflow."""


class Steering:
    """A potential that telescopes to exp(lam r(x_0)).

    Args:
        lam: strength, in 1 / units of the reward; above 0.
        target: what the log-weight of a path should be before the clean end.
        state: what the target remembers at first.

    Raises:
        ValueError: for a strength that cannot be; in a search on the CPU, for a log-weight that is neither -inf nor
            finite within 1e100.
    """

    def __init__(self, lam: float, target: Target, state: float = 0.0) -> None:
        if not 0 < lam <= LARGEST:
            raise ValueError(f"lam={lam} must be above 0 and finite, at most {LARGEST:g}")
        self.lam, self._target, self._state = float(lam), target, state

    def initial(self, batch_shape: tuple[int, int], device: torch.device) -> Memory:
        """The total so far and the target's state, `[B, K]` each."""
        total = torch.zeros(batch_shape, dtype=weight_dtype(device), device=device)
        return total, torch.full_like(total, self._state)

    def __call__(self, scores: Scores) -> tuple[Tensor, Memory]:
        """The increment that leads from the total so far to the target."""
        before, state = scores.memory
        steered = self.lam * precise(scores.value)
        total, state = (steered, state) if scores.final else self._target(scores, before, state)
        self._refuse(scores, total)
        return _gained(before, total), (total, state)

    def _refuse(self, scores: Scores, total: Tensor) -> None:
        if total.device.type != "cpu":  # looking would stall an accelerator at every step
            return
        if (bad := (total.abs() > LARGEST) & (total != -torch.inf)).any():
            value = scores.value[bad][0].item()
            raise ValueError(
                f"a value of {value:g} at level {scores.level} cannot be steered by: with lam={self.lam:g} it makes a "
                f"log-weight of {total[bad][0].item():g}, and the most is {LARGEST:g}; bound the reward (-inf is a "
                "weight of zero) or lower lam"
            )


def difference(lam: float) -> Steering:
    """log G_i = lam (r_i - r_{i-1}): rewards progress, so that the total is lam r_i."""
    return Steering(lam, lambda scores, total, state: (lam * precise(scores.value), state))


def plain(lam: float) -> Steering:
    """log G_i = lam r_i: every look at the value counts anew, until the last one takes them all back."""
    return Steering(lam, lambda scores, total, state: (total + lam * precise(scores.value), state))


def running_max(lam: float) -> Steering:
    """log G_i = lam max_{s <= i} r_s."""

    def target(scores: Scores, total: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
        best = torch.maximum(best, precise(scores.value))
        return total + lam * best, best

    return Steering(lam, target, -math.inf)


def running_sum(lam: float) -> Steering:
    """log G_i = lam sum_{s <= i} r_s."""

    def target(scores: Scores, total: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        added = added + precise(scores.value)
        return total + lam * added, added

    return Steering(lam, target)


KINDS: dict[str, Callable[[float], Steering]] = {
    "difference": difference,
    "max": running_max,
    "sum": running_sum,
    "plain": plain,
}
"""The potentials of FK steering by name."""


def tempered(lam: float, schedule: Literal["linear", "geometric"] = "geometric") -> Steering:
    """log G_i = lam (g_i r_i - g_{i-1} r_{i-1}), g rising from 0 to 1 (DAS, Kim et al. 2025, arXiv 2501.05803).

    linear g_i = i/T; geometric g_i = 2^(i/T) - 1, DAS's (1 + gamma)^i - 1 with the gamma that reaches 1 at the end.
    """
    if schedule not in ("linear", "geometric"):
        raise ValueError(f"schedule={schedule!r} is not known; choose one of linear, geometric")

    def target(scores: Scores, total: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        progress = scores.level / scores.num_steps
        g = progress if schedule == "linear" else 2**progress - 1
        return lam * g * precise(scores.value), state

    return Steering(lam, target)


def adaptive(lam: float, ess_target: float = 0.5) -> Steering:
    """As `tempered`, each g_i as large as leaves an ESS of `ess_target * N` (Del Moral et al. 2012)."""
    if not 0 < ess_target < 1:
        raise ValueError(f"ess_target={ess_target} is outside (0, 1)")

    def target(scores: Scores, total: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        steered = lam * precise(scores.value)
        low, high = g[:, :1], torch.ones_like(g[:, :1])
        at = high  # bisection, after a look at the whole way
        for _ in range(40):
            aim = _raised(at, steered)
            enough = ess(scores.log_w + _gained(total, aim))[:, None] >= ess_target * total.shape[1]
            low, high = torch.where(enough, at, low), torch.where(enough, high, at)
            at = (low + high) / 2
        return _raised(low, steered), low.expand_as(g)

    return Steering(lam, target)


def _raised(g: Tensor, steered: Tensor) -> Tensor:
    """g times a log-weight, and -inf also where g is 0, as for any g above it."""
    return torch.where(steered == -torch.inf, steered, g * steered)


def _gained(before: Tensor, after: Tensor) -> Tensor:
    """The increment of a log-weight. A path of weight zero stays so: -inf minus -inf would be nan."""
    return torch.where(before == -torch.inf, 0.0, after - before)
