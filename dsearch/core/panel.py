"""Rewards that watch a search and never steer it, so that over-optimisation shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .contract import Beams, Reward
from .engine import Engine
from .plan import positive

__all__ = ["Look", "Panel", "Watch"]


class Look(NamedTuple):
    """What the panel said after a step.

    Attributes:
        step: the noise level reached; `num_steps` for the final images.
        guide: `[B, K]` the values that steer, of the same beams (nan where none was asked yet).
        scores: by name, `[B, K]` what the panel says of their posterior means, or of the final images.
    """

    step: int
    guide: Tensor
    scores: dict[str, Tensor]


@dataclass(frozen=True)
class Panel:
    """Who watches, and when.

    Attributes:
        rewards: by name; they see what the search's own reward sees, and choose nothing.
        every: steps from one look at the beams in progress to the next, each look decoding them; 0 looks at the final
            images alone, which are decoded anyway.
        patience: a prompt for which so many looks in a row found the guide's best value above that of the look before
            and the mean of any panel reward below it draws one child a beam from then on; 0 never stops.

    Raises:
        ValueError: for no rewards, names that are not strings or empty, or patience without looks.
    """

    rewards: Mapping[str, Reward]
    every: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        if not self.rewards or not all(isinstance(name, str) and name for name in self.rewards):
            raise ValueError("a panel names its rewards; give {'clip': reward, ...}")
        positive("every", self.every, at_least=0), positive("patience", self.patience, at_least=0)
        if self.patience and not self.every:
            raise ValueError(f"patience={self.patience} counts looks on the way; set every=1 or more")


@dataclass
class Watch:
    """The panel at work in one search: its looks so far, and which groups it has stopped.

    Attributes:
        panel: who watches.
        looks: so far, in order.
        stopped: `[B]`, or None before the first look.
    """

    panel: Panel
    looks: list[Look] = field(default_factory=list)
    stopped: Tensor | None = None
    _falls: Tensor | None = None

    def restart(self) -> None:
        """A new round: what was seen of the last one says nothing of it."""
        self.stopped, self._falls = None, None

    def look(self, beams: Beams, step: int, engine: Engine) -> None:
        """Level `step` is reached: looks, if it is time to, and stops whom it must."""
        if not self.panel.every or step % self.panel.every or step == engine.denoiser.num_steps:
            return
        said = {
            name: engine.observe(name, reward, beams.pred.x0, beams.prompt, step)
            for name, reward in self.panel.rewards.items()
        }
        before = self.looks[-1] if self.looks and self.looks[-1].step < step else None
        self.looks.append(Look(step, beams.value, said))
        if self.panel.patience and before is not None:
            rises = beams.value.amax(dim=1) > before.guide.amax(dim=1)  # false where either is nan
            falls = torch.stack([said[n].mean(dim=1) < before.scores[n].mean(dim=1) for n in said]).any(dim=0)
            seen = torch.zeros_like(rises, dtype=torch.long) if self._falls is None else self._falls
            self._falls = torch.where(rises & falls, seen + 1, 0)
            done = self._falls >= self.panel.patience
            self.stopped = done if self.stopped is None else self.stopped | done
