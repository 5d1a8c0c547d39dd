"""What watches a search: a target, rewards held out of it, thumbnails, a function of yours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import Beams, Reward, Step, own
from .engine import Engine
from .frames import contact_sheet, is_video
from .plan import positive

__all__ = ["Called", "HeldOut", "Look", "Target", "Thumbnails", "Unchanged", "Watcher", "Watching"]


class Watcher:
    """Sees a search and never steers it: it may only say which groups search no further. Override what you need.

    What it is given is its own: writing into it changes nothing.
    """

    def begin(self) -> Watcher:
        """The watcher of one search: a copy, so that one object can watch several."""
        return copy(self)

    def candidates(
        self, candidates: Beams, values: Tensor, level: int, engine: Engine, images: Tensor | None = None
    ) -> None:
        """Candidates at a level (some, where they stream) with their values `[B, n]`; `images` at the clean end."""

    def survivors(self, step: Step, beams: Beams, engine: Engine) -> Tensor | None:
        """After each step: `[B]` the groups that draw one child per beam from now on, until this says otherwise."""

    def end(self, images: Tensor, rewards: Tensor, prompts: list[list[str]], engine: Engine) -> None:
        """The images that are returned, `[B, K, ...]`, best first."""


class Called(Watcher):
    """A function `(step, beams)`, called after each step; what it returns is ignored."""

    def __init__(self, function: Callable[[Step, Beams], object]) -> None:
        self.function = function

    def survivors(self, step: Step, beams: Beams, engine: Engine) -> Tensor | None:
        """Calls it."""
        self.function(step, beams)
        return None


class Target(Watcher):
    """A prompt whose best value has reached a target draws one child per beam until it falls below.

    A noise search ends its rounds there. What that saves is not spent.

    Raises:
        ValueError: for nan.
    """

    def __init__(self, reward: float) -> None:
        if math.isnan(reward):
            raise ValueError("the target is nan; give a reward to reach")
        self.reward = reward

    def survivors(self, step: Step, beams: Beams, engine: Engine) -> Tensor | None:
        """`[B]`: the best value is at the target; one that was never asked is nan."""
        return (beams.value >= self.reward).any(dim=1)


class Unchanged(Watcher):
    """A prompt goes back in noise no more once so many clean ends in a row have left it with the rewards it had.

    Args:
        patience: how many, 1 or more.
    """

    def __init__(self, patience: int) -> None:
        self.patience = positive("patience", patience)
        self._last: Tensor | None = None
        self._same: Tensor | None = None

    def survivors(self, step: Step, beams: Beams, engine: Engine) -> Tensor | None:
        """`[B]`, at a clean end: it has been the same for long enough."""
        if step.level != engine.denoiser.num_steps:
            return None
        if self._last is not None:
            same = (beams.value == self._last).all(dim=1)
            before = torch.zeros_like(same, dtype=torch.long) if self._same is None else self._same
            self._same = torch.where(same, before + 1, 0)
        self._last = beams.value
        return None if self._same is None else self._same >= self.patience


class Look(NamedTuple):
    """What held-out rewards said at a level.

    Attributes:
        level: the noise level reached; `num_steps` for the final images.
        value: `[B, K]` the values that steer, of the same beams (nan where none was asked yet).
        scores: by name, `[B, K]` what the held-out rewards say of their posterior means, or of the final images.
    """

    level: int
    value: Tensor
    scores: dict[str, Tensor]


@dataclass(frozen=True)
class HeldOut:
    """Rewards that score a search and never steer it, so that over-optimisation shows; their cost is counted apart.

    Attributes:
        rewards: by name; they see what the search's own reward sees, and choose nothing.
        every: steps from one look at the beams in progress to the next, each look decoding them; 0 looks at the final
            images alone, which are decoded anyway.
        patience: early stopping. A prompt draws one child per beam from then on once so many looks in a row found the
            best value above that of the look before while the mean of some held-out reward was below it; 0 never stops.

    Raises:
        ValueError: for no rewards, names that are not strings or empty, or patience without looks.
    """

    rewards: Mapping[str, Reward]
    every: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        if not self.rewards or not all(isinstance(name, str) and name for name in self.rewards):
            raise ValueError("held-out rewards have names; give HeldOut({'clip': reward, ...})")
        positive("every", self.every, at_least=0), positive("patience", self.patience, at_least=0)
        if self.patience and not self.every:
            raise ValueError(f"patience={self.patience} counts looks on the way; set every=1 or more")

    def begin(self) -> Looking:
        """For one search."""
        return Looking(self)


class Looking(Watcher):
    """Held-out rewards in one search.

    Attributes:
        looks: so far, in order.
    """

    def __init__(self, asked: HeldOut) -> None:
        self.asked, self.looks = asked, list[Look]()
        self._drifts: Tensor | None = None
        self._stop: Tensor | None = None

    def survivors(self, step: Step, beams: Beams, engine: Engine) -> Tensor | None:
        """Looks, if it is time to, and stops whom it must."""
        if step.step == 0:  # a new round of a noise search: what was seen of the last one says nothing of it
            self._drifts = self._stop = None
        if step.level == engine.denoiser.num_steps:
            return None
        if self.asked.every and step.level % self.asked.every == 0:
            self._look(beams, step.level, engine)
        return self._stop

    def end(self, images: Tensor, rewards: Tensor, prompts: list[list[str]], engine: Engine) -> None:
        """The last look, at the images."""
        said = {name: engine.watching(name, r).rate(images, prompts) for name, r in self.asked.rewards.items()}
        self.looks.append(Look(engine.denoiser.num_steps, rewards, said))

    def _look(self, beams: Beams, level: int, engine: Engine) -> None:
        said = {
            name: engine.watching(name, reward).reward(beams.pred.x0, beams.prompt_index, level)
            for name, reward in self.asked.rewards.items()
        }
        before = self.looks[-1] if self.looks and self.looks[-1].level < level else None
        self.looks.append(Look(level, beams.value, said))
        if self.asked.patience and before is not None:
            rises = beams.value.amax(dim=1) > before.value.amax(dim=1)  # false where either is nan
            falls = torch.stack([said[n].mean(dim=1) < before.scores[n].mean(dim=1) for n in said]).any(dim=0)
            seen = torch.zeros_like(rises, dtype=torch.long) if self._drifts is None else self._drifts
            self._drifts = torch.where(rises & falls, seen + 1, 0)
            done = self._drifts >= self.asked.patience
            self._stop = done if self._stop is None else self._stop | done


class Thumbnails(Watcher):
    """Small pictures of all candidates at scored steps; each is decoded once more for it, which is counted apart.

    Args:
        size: pixels of the longer edge; smaller pictures are kept as they are.

    Raises:
        ValueError: for a size below 1.
    """

    def __init__(self, size: int) -> None:
        self.size = positive("thumbnails", size)
        self._now: list[tuple[Tensor, Tensor]] = []
        self._steps: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def begin(self) -> Thumbnails:
        """For one search."""
        return Thumbnails(self.size)

    def candidates(
        self, candidates: Beams, values: Tensor, level: int, engine: Engine, images: Tensor | None = None
    ) -> None:
        """Keeps their pictures."""
        if images is None:
            engine = engine.watching("thumbnails")
            small = engine.show(candidates.pred.x0, candidates.prompt_index, level, self.small)
        else:
            small = self.small(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        self._now.append((candidates.child.cpu(), small))

    def survivors(self, step: Step, beams: Beams, engine: Engine) -> Tensor | None:
        """What was seen since the step before is this one's."""
        if self._now:
            self._steps.setdefault(step.step, []).extend(self._now)
            self._now.clear()
        return None

    def of(self, trace: Sequence[Step]) -> list[Tensor | None]:
        """For each step `[B, N, 3, h, w]` uint8 of all candidates, blank where none was drawn; None for no pictures."""
        return [self._all(step) for step in trace]

    def _all(self, step: Step) -> Tensor | None:
        parts = self._steps.get(step.step)
        if parts is None:
            return None
        first = parts[0][1]
        count = step.alive * step.width if step.values is None else step.values.shape[1]
        full = first.new_zeros(len(first), count, *first.shape[2:])
        seen = base = 0
        for child, small in parts:
            base = seen if child.min() == 0 else base  # a new round of a noise search numbers its candidates anew
            full[torch.arange(len(child), device="cpu")[:, None], base + child] = small
            seen += child.shape[1]
        return full

    def small(self, images: Tensor) -> Tensor:
        """Images `[R, 3, H, W]` in [0, 1], or sheets of four frames of videos -> `[R, 3, h, w]` uint8 on the CPU."""
        if is_video(images):
            images = contact_sheet(images, 4)
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"thumbnails are of images [R, 3, H, W] or videos [R, F, 3, H, W], but the model decodes to "
                f"{tuple(images.shape)}"
            )
        scale = self.size / max(images.shape[-2:])
        if scale < 1:
            size = [max(1, round(edge * scale)) for edge in images.shape[-2:]]
            images = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        return images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu()


class Watching:
    """All that watches one search: told in one place, and the one place where it is said who searches no further.

    Raises:
        TypeError: for what is neither a watcher nor a function.
        ValueError: for two of a kind whose findings `Result` has one place for.
    """

    def __init__(self, watchers: Iterable[Any]) -> None:
        self._at_work: list[Watcher] = [_watcher(one).begin() for one in watchers]
        for kind, name in ((Looking, "HeldOut"), (Thumbnails, "Thumbnails")):
            if sum(isinstance(watcher, kind) for watcher in self._at_work) > 1:
                raise ValueError(f"watch holds two {name}; give one, with all that they were to see")

    def candidates(
        self, candidates: Beams, values: Tensor, level: int, engine: Engine, images: Tensor | None = None
    ) -> None:
        """Tells those who listen."""
        for watcher in self._at_work:
            if _sees_candidates(watcher):
                watcher.candidates(own(candidates), values.clone(), level, engine, own(images))

    def stopped(self, step: Step, beams: Beams, engine: Engine) -> Tensor | None:
        """Tells of the survivors; `[B]` the groups that any watcher stops, None for none."""
        said = [watcher.survivors(own(step), own(beams), engine) for watcher in self._at_work]
        masks = [mask for mask in said if mask is not None]
        return reduce(torch.logical_or, masks) if masks else None

    def end(self, images: Tensor, rewards: Tensor, prompts: list[list[str]], engine: Engine) -> None:
        """Tells of the images that are returned."""
        for watcher in self._at_work:
            watcher.end(images.clone(), rewards.clone(), [list(group) for group in prompts], engine)

    @property
    def sees_candidates(self) -> bool:
        """Whether any listens for candidates, and not for survivors alone."""
        return any(map(_sees_candidates, self._at_work))

    @property
    def sees_survivors(self) -> bool:
        """Whether any listens for the survivors of steps on the way."""
        return any(
            bool(one.asked.every) if isinstance(one, Looking) else type(one).survivors is not Watcher.survivors
            for one in self._at_work
            if not isinstance(one, Thumbnails)
        )

    @property
    def looks(self) -> list[Look]:
        """What held-out rewards said; empty without any."""
        return [look for watcher in self._at_work if isinstance(watcher, Looking) for look in watcher.looks]

    def thumbnails(self, trace: Sequence[Step]) -> list[Tensor | None]:
        """One entry per step; empty without a `Thumbnails`."""
        return [small for watcher in self._at_work if isinstance(watcher, Thumbnails) for small in watcher.of(trace)]


def _sees_candidates(watcher: Watcher) -> bool:
    return type(watcher).candidates is not Watcher.candidates


def _watcher(given: Any) -> Any:
    if isinstance(given, Watcher | HeldOut):
        return given
    if isinstance(given, type) or not callable(given):
        raise TypeError(
            f"watch holds {given!r}; give watchers (Target(0.8), HeldOut({{'clip': reward}}), Thumbnails(32)) "
            "or functions (step, beams)"
        )
    return Called(given)
