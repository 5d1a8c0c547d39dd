"""How different a prompt's images are, across seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..experiments.experiment import ExperimentError, Named, near
from ..experiments.typed import is_attribute
from ..plots import from_png
from .cells import Cell, Found
from .intervals import Estimate, around, jackknife
from .metrics import Interval, diversity

Statistic = Callable[[Tensor], Tensor]
"""Of the embeddings `[K, D]` of a prompt's images."""


class Embedded:
    """Embeds the pictures of cells, where a reward of the experiment or a given one can, or says why not."""

    def __init__(self, found: Found, name: str | Any | None) -> None:
        self.why = ""
        self.name: str | None = name if name is None or isinstance(name, str) else type(name).__name__
        self._reward: Any = None
        self._known: dict[Path, Tensor] = {}
        if self.name is not name:
            if not hasattr(name, "image_embeddings"):
                raise ExperimentError(f"embed: {name!r} has no image_embeddings; give a CLIPScore")
            self._reward = name
            return
        if name is not None and name not in found.rewards:
            raise ExperimentError(f"embed: no reward is called {name!r}{near(name, found.rewards)}")
        if name is None:
            self.name = next(
                (n for n in found.rewards if n not in found.objectives and _is_clip(found.rewards[n])), None
            )
        if self.name is None:
            self.why = "every CLIPScore of the experiment steers, if it has one; name a reward that embeds images"
            return
        try:
            self._reward = _embedder(found.rewards[self.name])
        except Exception as error:  # of any kind: libraries read the files of a run made elsewhere
            if name is not None:
                raise ExperimentError(f"embed: {name} cannot be made: {error}") from error
            self.why = f"{self.name} cannot be made: {error}"

    def estimate(
        self, cell: Cell, against: Cell | None, of: Statistic = diversity, least: float = 0.0
    ) -> Estimate | None:
        """A statistic of a cell's pictures, at least `least`; None where none is embedded or no prompt has two."""
        if self._reward is None:
            return None
        own = self._by_prompt(cell)
        if not own:
            return None
        apart = partial(_apart, of)
        mean, low, high = _spread(own, apart)
        if cell.pooled:  # prompts that share a pool are no independent samples
            return Estimate(Interval(mean, nan, nan))
        estimate = Estimate(Interval(mean, max(low, least), high))
        if against is None or against.pooled:
            return estimate
        theirs = self._by_prompt(against)
        both = {p: [s for s in own[p] if s in theirs[p]] for p in own if p in theirs}
        pairs = [(own[p], theirs[p], seeds) for p, seeds in both.items() if len(seeds) >= 3]
        return estimate._replace(above=_spread_above(pairs, apart)) if pairs else estimate

    def _by_prompt(self, cell: Cell) -> dict[int, dict[int, Tensor]]:
        """Embeddings `[D]` by position and seed, of prompts with two pictures or more."""
        missing = [path for path in cell.pictures.values() if path not in self._known]
        for i in range(0, len(missing), 16):
            pictures = torch.stack([from_png(path) for path in missing[i : i + 16]])
            self._known.update(zip(missing[i : i + 16], self._reward.image_embeddings(pictures).cpu(), strict=True))
        found: dict[int, dict[int, Tensor]] = {}
        for (seed, position), path in sorted(cell.pictures.items()):
            found.setdefault(position, {})[seed] = self._known[path]
        return {position: own for position, own in sorted(found.items()) if len(own) >= 2}


def _apart(of: Statistic, embeddings: Sequence[Tensor]) -> float:
    return float(of(torch.stack(list(embeddings))))


def _spread(by_prompt: Mapping[int, Mapping[int, Tensor]], apart: Callable[[Sequence[Tensor]], float]) -> Interval:
    sets = [list(own.values()) for own in by_prompt.values()]
    sets = [own for own in sets if len(own) >= 3] or sets  # of two pictures none can be left out
    whole = torch.tensor([apart(own) for own in sets], dtype=torch.float64, device="cpu")
    return around(whole, [jackknife(own, apart) for own in sets if len(own) >= 3])


def _spread_above(
    pairs: Sequence[tuple[Mapping[int, Tensor], Mapping[int, Tensor], Sequence[int]]],
    apart: Callable[[Sequence[Tensor]], float],
) -> Interval:
    """The difference of two methods' statistics, its spread from leaving a seed out of both."""

    def difference(own: Mapping[int, Tensor], theirs: Mapping[int, Tensor], seeds: Sequence[int]) -> float:
        return apart([own[s] for s in seeds]) - apart([theirs[s] for s in seeds])

    whole = torch.tensor([difference(*pair) for pair in pairs], dtype=torch.float64, device="cpu")
    return around(whole, [jackknife(seeds, partial(difference, own, theirs)) for own, theirs, seeds in pairs])


def _is_clip(named: Named) -> bool:
    from ..experiments.naming import reward_class
    from ..rewards import CLIPScore

    return not _is_elsewhere(named) and issubclass(reward_class(named.kind), CLIPScore)


def _is_elsewhere(named: Named) -> bool:
    return is_attribute(named.kind) or named.kind == "given"


def _embedder(named: Named) -> Any:
    """The reward, made of what is here: a run made elsewhere has no module imported, and nothing downloaded."""
    from ..experiments.models import default_device
    from ..experiments.naming import reward, reward_class

    if named.kind == "given":
        raise ValueError("the run was given it as an object, which its folder does not hold")
    if _is_elsewhere(named):
        raise ValueError(f"it is {named.kind}, and a comparison runs no code that a run names; name a CLIPScore")
    if not hasattr(reward_class(named.kind), "image_embeddings"):
        raise ValueError("it has no image_embeddings; name a CLIPScore")
    args = {name: value for name, value in named.args.items() if name != "download"}
    return reward(Named(named.kind, args), default_device())
