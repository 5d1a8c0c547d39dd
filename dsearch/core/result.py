"""What a search returns, and who in it descends from whom."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .chunks import Chunks
from .contract import Step, take
from .plan import Bill, Plan
from .resample import ess
from .tournament import Outcome
from .watch import Look

__all__ = ["Cost", "Lineage", "Result"]


@dataclass(frozen=True)
class Lineage:
    """Who descends from whom.

    Attributes:
        child: for each step `[B, K_i]`, which of its N candidates each survivor was, in beam order.
        width: children per beam, for each step.
        order: `[B, K]`, which of the last beams each row of the result is (the result is sorted best first).
        parent: for each step `[B, N_i]`, which beam each candidate came from, -1 where there is none; None where
            siblings stand side by side, so that candidate j came from beam `j // width`.
    """

    child: tuple[Tensor, ...]
    width: tuple[int, ...]
    order: Tensor
    parent: tuple[Tensor, ...] | None = None

    def path(self) -> Tensor:
        """`[B, K, T]`: for each image of the result, which of the N candidates its forebear was, at each step."""
        return torch.stack(self._walk()[0], dim=-1)

    def ancestor(self) -> Tensor:
        """`[B, K]`: for each image of the result, the beam of x_T it descends from."""
        return self._walk()[1]

    def ancestors(self) -> Tensor:
        """`[B, T]`: how many beams of x_T have descendants after each step; it never rises."""
        counts, root = [], None
        for i, child in enumerate(self.child):
            parent = self._parent(i, child)
            root = parent if root is None else take(root, parent)
            sorted_root = root.sort(dim=-1).values
            counts.append(1 + (sorted_root.diff(dim=-1) != 0).sum(dim=-1))
        return torch.stack(counts, dim=-1)

    def _walk(self) -> tuple[list[Tensor], Tensor]:
        beam, path = self.order, []
        for i in reversed(range(len(self.child))):
            path.append(take(self.child[i], beam))
            beam = self._parent(i, path[-1])
        return path[::-1], beam

    def _parent(self, step: int, candidates: Tensor) -> Tensor:
        """`[B, K]` the beams before a step that candidates came from."""
        if self.parent is None:
            return candidates // self.width[step]
        return take(self.parent[step], candidates).clamp(min=0)  # what is none is counted with the first


@dataclass(frozen=True)
class Cost:
    """What a search cost.

    Attributes:
        planned: what `method.bill` promised for a group; what is counted is equal, or less where a search stops early.
        spent: what was spent on all groups together, counted.
        watched: what watchers cost, all groups together; it is in none of the bills.
        groups: how many there were: prompts, or 1 for a pool.
    """

    planned: Bill
    spent: Bill
    watched: Bill
    groups: int

    @property
    def bill(self) -> Bill:
        """What was spent on a group; where groups stop early at times of their own, their mean, rounded up."""
        return Bill(*(-(-unit // self.groups) for unit in self.spent))


@dataclass(frozen=True)
class Result:
    """What a search found; the K survivors of each of the B groups, best first.

    Attributes:
        images: `[B, K, 3, H, W]` in [0, 1] (whatever the model's `decode` makes).
        rewards: `[B, K]` their final rewards; they fall along K but where a final choice has ranked the rows.
        latents: `[B, K, ...]` the clean samples they were decoded from.
        prompts: `prompts[b][k]` is the prompt of `images[b, k]`.
        log_w: `[B, K]` log importance weights, zeros without a potential.
        kl: `[B, K]` KL in nats of the searched path to the pretrained one, as far as the choices made say
            (`dsearch.core.selection`): 0 for plain sampling; None where it is not known.
        trace: one `Step` per denoising step.
        lineage: who descends from whom.
        plan: the plan that was run.
        cost: what it cost.
        chunks: the chunk sizes in use at the end, to start the next search with: `search(..., chunks=result.chunks)`.
        looks: what held-out rewards said, the last look being at `images`; empty without `HeldOut`.
        thumbnails: one per step, `[B, N, 3, h, w]` uint8 of all candidates as they were when chosen among; None where
            nothing was scored. Empty without `Thumbnails`.
        final: the outcome of the final choice, its order that of the rows by reward; None where rewards rank them.
        peak_bytes: the most memory that tensors, weights included, took meanwhile on the model's CUDA device, whose
            counter `dsearch.search` sets back; None on other devices.
    """

    images: Tensor
    rewards: Tensor
    latents: Tensor
    prompts: list[list[str]]
    log_w: Tensor
    kl: Tensor | None
    trace: list[Step]
    lineage: Lineage
    plan: Plan
    cost: Cost
    chunks: Chunks
    looks: list[Look] = field(default_factory=list)
    thumbnails: list[Tensor | None] = field(default_factory=list)
    final: Outcome | None = None
    peak_bytes: int | None = None

    @property
    def held_out(self) -> dict[str, Tensor]:
        """By name, `[B, K]` what the held-out rewards say of `images`; empty without any."""
        return self.looks[-1].scores if self.looks else {}

    @property
    def ess(self) -> Tensor:
        """`[B]` effective number of samples by `log_w`, (sum w)^2 / sum w^2: K without a potential."""
        return ess(self.log_w)

    @property
    def log_z(self) -> Tensor:
        """`[B]` estimate of log E[exp(lam r(x_0))], where a potential has weighed the samples: log mean exp(log_w)."""
        return torch.logsumexp(self.log_w, dim=-1) - math.log(self.log_w.shape[-1])
