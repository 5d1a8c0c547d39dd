"""One search on several processes, started by `torchrun`: same result, a part of the work each.

    torchrun --nproc-per-node 8 my_search.py

where the script says:

    with dsearch.distributed.processes() as ranks:
        result = dsearch.distributed.search(denoiser, method, prompts, ranks=ranks)
        if ranks.rank == 0:
            ...

Prompts are split over the processes where there are as many; otherwise the candidates of every prompt are: each process
draws, predicts and values its own, the values are gathered, all choose alike, and the winners are exchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .core.chunks import Chunks
from .core.contract import Denoiser, Step, Tree, map_tree
from .core.method import Method
from .core.plan import Bill, positive
from .core.result import Cost
from .entry import search as search_alone
from .result import Result

__all__ = ["Ranks", "RanksLost", "joined", "processes", "search"]


class RanksLost(RuntimeError):
    """Another process ended, or did not answer in time, while this one waited for it."""


class Ranks:
    """The processes of a `torch.distributed` group; a `Share` of a search.

    Attributes:
        rank: this process's number, from 0.
        size: how many there are.
        sent: bytes that this process has handed to the others so far, each collective's own input counted once.
    """

    def __init__(self) -> None:
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.sent = 0

    def gather(self, tree: Tree, total: int) -> Tree:
        """Leaves `[B, n, ...]`, this rank's part of `total` -> `[B, total, ...]`, all parts in order."""
        sizes = [total * (r + 1) // self.size - total * r // self.size for r in range(self.size)]

        def one(leaf: Tensor) -> Tensor:
            leaf = leaf.to(self._agreed(leaf.dtype)) if 0 in sizes else leaf
            own = leaf.new_zeros(max(sizes), len(leaf), *leaf.shape[2:])  # rows first, so that parts are contiguous
            own[: leaf.shape[1]] = leaf.transpose(0, 1)
            raw = self._carried(own)
            parts = [torch.empty_like(raw) for _ in sizes]
            self._together(raw, lambda: dist.all_gather(parts, raw))
            rows = [part.view(own.dtype)[:n] for part, n in zip(parts, sizes, strict=True)]
            return torch.cat(rows).transpose(0, 1).to(leaf.device).contiguous()

        return map_tree(one, tree)

    def exchange(self, tree: Tree, own: Tensor) -> Tree:
        """Leaves `[B, K, ...]`, of which this rank has those that `own [B, K]` marks -> the same with all of them."""

        def one(leaf: Tensor) -> Tensor:
            mask = own.reshape(*own.shape, *(1,) * (leaf.dim() - 2))
            raw = self._carried(torch.where(mask, leaf, torch.zeros_like(leaf)))
            self._together(raw, lambda: dist.all_reduce(raw))  # bytes; all but the owner add 0, so nothing is rounded
            return raw.view(leaf.dtype).view(leaf.shape).to(leaf.device)

        return map_tree(one, tree)

    def total(self, bill: Bill) -> Bill:
        """What all processes spent together."""
        spent = self._carried(torch.tensor(list(bill), device="cpu"), torch.int64)
        self._together(spent, lambda: dist.all_reduce(spent))
        return Bill(*spent.tolist())

    def collect(self, item: Any) -> list[Any] | None:
        """One object of each rank, on rank 0; None on the others."""
        into: list[Any] | None = [None] * self.size if self.rank == 0 else None
        self._together(torch.empty(0, device="cpu"), lambda: dist.gather_object(item, into))
        return into

    def told(self, item: Any) -> Any:
        """Rank 0's, on all ranks."""
        return item if self.size == 1 else self._told(item, 0)

    def _told(self, item: Any, source: int) -> Any:
        said = [item]
        self._together(torch.empty(0, device="cpu"), lambda: dist.broadcast_object_list(said, src=source))
        return said[0]

    def _agreed(self, dtype: torch.dtype) -> torch.dtype:
        """The last rank's, which always has a part: one without cannot know."""
        return self._told(dtype, self.size - 1)

    def _carried(self, leaf: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
        """The leaf's bytes, where the backend can read them."""
        device = leaf.device if leaf.device.type == "cuda" or dist.get_backend() == "gloo" else "cuda"
        leaf = leaf.contiguous().to("cpu" if dist.get_backend() == "gloo" else device)
        return leaf.view(dtype) if leaf.dim() else leaf[None].view(dtype)

    def _together(self, sent: Tensor, work: Callable[[], Any]) -> None:
        self.sent += sent.numel() * sent.element_size()
        try:
            work()
        except RuntimeError as error:
            late = any(
                word in str(error).lower() for word in ("timed out", "timeout")
            )  # torch raises one type for both
            how = (
                "hangs: it did not answer in the `timeout` of `processes`"
                if late
                else "has ended: its own message says why"
            )
            raise RanksLost(
                f"rank {self.rank} of {self.size} waited for another process that {how}. "
                "What was handed to `each` before is complete; start again with the prompts that are left"
            ) from error


@contextmanager
def processes(timeout: float = 1800) -> Iterator[Ranks]:
    """Joins the processes that torchrun started: nccl where each has a GPU, else gloo. Alone, it is a group of one.

    Each process's current CUDA device becomes the one of its local rank: load the model on `"cuda"` inside.

    Args:
        timeout: seconds to wait for another process before `RanksLost`.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield Ranks()
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count()
    if gpus > local:
        torch.cuda.set_device(local)
    backend = "nccl" if gpus > local else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        yield Ranks()
    finally:
        dist.destroy_process_group()


def search(
    denoiser: Denoiser,
    method: Method,
    prompts: str | Sequence[str],
    *,
    ranks: Ranks | None = None,
    batch: int | None = None,
    ids: Sequence[Hashable] | None = None,
    each: Callable[[Result, range], object] | None = None,
    **options: Any,
) -> Result | None:
    """`dsearch.search` on all processes; every one calls it with the same arguments.

    Args:
        denoiser: the model, on this process's device.
        method: the method.
        prompts: all of them.
        ranks: the processes, from `processes()`.
        batch: prompts per process at a time; None for all. After each round of batches rank 0 gets what is finished.
        ids: one per prompt, as in `dsearch.search`; positions by default, whatever the split.
        each: on rank 0, told of each finished part and of the positions of its prompts, to write it down.
        **options: others of `dsearch.search`.

    Returns:
        On rank 0 the result of all prompts, on the CPU, as one process would have it; elsewhere None.

    Raises:
        ValueError: as `dsearch.search`; for a pooled method, whose prompts cannot be split, on several processes.
        RanksLost: where another process ended.
    """
    ranks = Ranks() if ranks is None else ranks
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    named = list(range(len(prompts))) if ids is None else list(ids)
    if len(named) != len(prompts):
        raise ValueError(f"{len(named)} ids for {len(prompts)} prompts; give one each")
    if method.pool and ranks.size > 1:
        raise ValueError(f"{method.name} pools its prompts, which {ranks.size} processes cannot share; run it on one")
    apart = len(prompts) >= ranks.size > 1  # a process has prompts of its own
    most = len(prompts) if batch is None else positive("batch", batch) * (ranks.size if apart else 1)
    share = ranks if ranks.size > 1 and not apart else None
    found: list[Result] = []
    for start in range(0, len(prompts), most):
        part = range(start, min(start + most, len(prompts)))
        own = part[len(part) * ranks.rank // ranks.size : len(part) * (ranks.rank + 1) // ranks.size] if apart else part
        result = None
        if own:
            result = search_alone(
                denoiser,
                method,
                prompts[own.start : own.stop],
                ids=None if method.pool else named[own.start : own.stop],
                share=share,
                **options,
            )
        if apart:
            parts = ranks.collect(None if result is None else _on_cpu(result))
            result = joined([one for one in parts if one is not None]) if parts else None
        if ranks.rank == 0 and result is not None:
            found.append(_on_cpu(result))
            if each is not None:
                each(found[-1], part)
    return joined(found) if ranks.rank == 0 else None


def joined(results: Sequence[Result]) -> Result:
    """Results of one method for different prompts as one, their groups in order.

    Raises:
        ValueError: for no results, results of different plans, or of noise searches that ended after different rounds.
    """
    if not results:
        raise ValueError("nothing to join")
    one = results[0]
    if any(result.plan != one.plan for result in results):
        raise ValueError("these results are of different plans; join those of one method and number of steps")
    if one.lineage.parent is not None:
        results = _widened(results)
        one = results[0]
    if any([s.alive for s in result.trace] != [s.alive for s in one.trace] for result in results):
        raise ValueError("these noise searches ended after different numbers of rounds; keep their results apart")
    known = all(result.kl is not None for result in results)
    alike = [replace(result, prompts=[], kl=result.kl if known else None) for result in results]
    spent, watched = Bill(), Bill()
    for result in results:
        spent, watched = spent.plus(result.cost.spent), watched.plus(result.cost.watched)
    return replace(
        map_tree(lambda *leaves: torch.cat(leaves), *alike),
        prompts=[texts for result in results for texts in result.prompts],
        cost=Cost(one.cost.planned, spent, watched, sum(result.cost.groups for result in results)),
        chunks=_least([result.chunks for result in results]),
        peak_bytes=max((r.peak_bytes for r in results if r.peak_bytes is not None), default=None),
    )


def _widened(results: Sequence[Result]) -> list[Result]:
    """Trees with as many places for nodes at each level as the largest has."""
    steps = range(len(results[0].trace))
    alive = [max(result.trace[i].alive for result in results) for i in steps]
    count = [max(result.lineage.child[i].shape[1] for result in results) for i in steps]
    valued = [any(result.trace[i].values is not None for result in results) for i in steps]
    shown: list[Tensor | None] = [
        next((small for result in results for small in result.thumbnails[i : i + 1] if small is not None), None)
        for i in steps
    ]

    def widened(result: Result) -> Result:
        trace, child, parent, thumbnails = list[Step](), list[Tensor](), list[Tensor](), list[Tensor | None]()
        for i, (step, own) in enumerate(zip(result.trace, result.lineage.parent or (), strict=True)):
            more = count[i] - own.shape[1]
            values = step.values
            if values is None and valued[i]:
                values = torch.where(own >= 0, torch.nan, -torch.inf).to(result.rewards.dtype)
            parent.append(F.pad(own, (0, more), value=-1))
            child.append(torch.arange(count[i], device=own.device).repeat(len(own), 1))
            values = values if values is None else F.pad(values, (0, more), value=-torch.inf)
            trace.append(replace(step, alive=alive[i], values=values))
            if (like := shown[i]) is not None:
                small = result.thumbnails[i]
                small = like.new_zeros(own.shape + like.shape[2:]) if small is None else small
                thumbnails.append(torch.cat([small, small.new_zeros(len(small), more, *small.shape[2:])], dim=1))
            elif result.thumbnails:
                thumbnails.append(None)
        lineage = replace(result.lineage, child=tuple(child), parent=tuple(parent))
        return replace(result, trace=trace, lineage=lineage, thumbnails=thumbnails)

    return [widened(result) for result in results]


def _least(chunks: Sequence[Chunks]) -> Chunks:
    """The sizes that fitted everywhere."""
    kinds = ("network", "decoder", "reward")
    sizes = {kind: [size for one in chunks if (size := getattr(one, kind)) is not None] for kind in kinds}
    least: dict[str, Any] = {kind: min(found) if found else None for kind, found in sizes.items()}
    return replace(chunks[0], **least)


def _on_cpu(result: Result) -> Result:
    return map_tree(lambda leaf: leaf.cpu(), result)
