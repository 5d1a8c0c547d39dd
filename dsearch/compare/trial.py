"""A trial: one method on a few prompts over several denoisers, to choose a model's noise by the reward that it reaches.

    candidates = {f"{noise} {eta}": AnyPipeline(pipe, noise=noise, eta=eta) for noise, eta in ...}
    print(trial(candidates, methods.svdd(reward), prompts))

A pilot says where a search should spend its rows; a trial says on which kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.chunks import Chunks
from ..core.contract import Denoiser, Reward
from ..core.loop import search
from ..core.method import Method
from ..core.plan import Bill
from ..core.watch import HeldOut
from .intervals import over_seeds
from .metrics import Interval

__all__ = ["Trial", "Tried", "trial"]


class Tried(NamedTuple):
    """What a search reached with one of the denoisers.

    Attributes:
        name: the denoiser's.
        reward: the best image's, mean over seeds and prompts, with its interval.
        above: how far it is above the first denoiser's, paired by seed and prompt; None for the first.
        held_out: what rewards that did not steer say of the same images, mean.
    """

    name: str
    reward: Interval
    above: Interval | None
    held_out: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """What `trial` found.

    Attributes:
        rows: by reward, best first.
        scores: `[S, P]` the best image's reward by seed and prompt, for each denoiser.
        each: the bill of a search, per prompt: the same for all.
        bill: what the whole trial spent, all searches of all prompts together.
    """

    rows: Sequence[Tried]
    scores: Mapping[str, Tensor]
    each: Bill
    bill: Bill = field(default=Bill())  # immutable

    @property
    def best(self) -> str:
        """The denoiser of the highest mean; of many that are alike it is the luckiest, so look at the intervals."""
        return self.rows[0].name

    def __str__(self) -> str:
        """The rows as Markdown."""
        first, *_ = self.scores
        names = list(self.rows[0].held_out)
        head = ["", "reward", f"above {first}", *names]
        lines = [head, ["---"] * len(head)]
        for row in self.rows:
            above = "" if row.above is None else f"{row.above}{'' if row.above.is_clear else ' n.s.'}"
            lines.append([row.name, str(row.reward), above, *(f"{row.held_out[name]:.3f}" for name in names)])
        calls, decodes, rewards, _ = self.bill
        return "\n".join(
            [
                *("| " + " | ".join(line) + " |" for line in lines),
                "",
                f"{len(self.rows)} denoisers at {self.each.model_calls} network rows a prompt each. The trial took "
                f"{calls} rows, {decodes} decodes, {rewards} rewards. Intervals are 95%, over seeds, on these prompts.",
            ]
        )


def trial(
    denoisers: Mapping[str, Denoiser],
    method: Method,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] = (10_000, 10_001, 10_002),
    held_out: Mapping[str, Reward] | None = None,
    chunks: Chunks = Chunks(),  # noqa: B008  # frozen
) -> Trial:
    """Runs the method with each denoiser on the same prompts, seeds and bill, and ranks them by the reward it reaches.

    All searches of a seed and prompt start from the same noise and draw the same normals, so differences are paired.

    Args:
        denoisers: by name, the first being what the others are compared with.
        method: what will be searched with, at its size.
        prompts: like those of the search.
        seeds: at least 2, apart from the search's.
        held_out: rewards that do not steer, for the same images.
        chunks: rows at once, as in `search`.

    Raises:
        ValueError: before anything is spent, for no denoiser, fewer than 2 seeds, or bills that differ.
    """
    if not denoisers:
        raise ValueError("a trial needs denoisers to compare")
    if len(set(seeds)) < 2:
        raise ValueError(f"seeds={list(seeds)}: intervals take at least 2 seeds that differ")
    bills = {name: method.bill(denoiser.num_steps) for name, denoiser in denoisers.items()}
    if len(set(bills.values())) > 1:
        raise ValueError(f"a trial is at one bill, and these differ: {bills}; give all denoisers one number of steps")
    watch = [HeldOut(dict(held_out))] if held_out else []
    scores: dict[str, Tensor] = {}
    others: dict[str, dict[str, float]] = {}
    spent = Bill()
    for name, denoiser in denoisers.items():
        found = [search(denoiser, method, prompts, seed=seed, chunks=chunks, watch=watch) for seed in seeds]
        scores[name] = torch.stack([result.rewards[:, 0].double().cpu() for result in found])
        others[name] = {
            held: float(torch.stack([result.held_out[held][:, 0].double().cpu() for result in found]).mean())
            for held in held_out or {}
        }
        for result in found:
            spent = spent.plus(result.cost.spent)
    first = next(iter(scores.values()))
    rows = [
        Tried(name, _over(cells), None if cells is first else _over(cells - first), others[name])
        for name, cells in scores.items()
    ]
    rows.sort(key=lambda row: -row.reward.mean)
    return Trial(rows, scores, next(iter(bills.values())), spent)


def _over(cells: Tensor) -> Interval:
    found = over_seeds(cells)
    assert found is not None  # there are 2 seeds, and no nan
    return found
