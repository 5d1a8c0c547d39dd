"""The engine: runs the networks over chunks of rows, counts the bill, checks what rewards return."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .chunks import Chunks, Kind, OutOfMemory, Sizes, is_out_of_memory
from .contract import Beams, Denoiser, Prediction, Reward, Rng, Tree, map_tree, own, weight_dtype
from .errors import ModelError, RewardError
from .meter import Meter
from .plan import Bill
from .rng import move
from .tournament import Outcome, Tournament

__all__ = ["Engine", "Share"]


class Share(Protocol):
    """One process of several that run the same search together, each with a part of the candidates.

    All call the same functions in the same order, and all go on with the same results.
    """

    rank: int
    size: int

    def gather(self, tree: Tree, total: int) -> Tree:
        """Leaves `[B, n, ...]`, the rank's own part of `total` -> `[B, total, ...]`, all parts in order."""
        ...

    def exchange(self, tree: Tree, own: Tensor) -> Tree:
        """Leaves `[B, K, ...]`, of which the rank has those that `own [B, K]` marks -> the same with all of them."""
        ...

    def total(self, bill: Bill) -> Bill:
        """What all processes spent together."""
        ...


class Engine:
    """Everything of a search that costs: network rows, decodes and rewards.

    No callable reaches into a search: each gets tensors of its own, and what it returns is copied.

    Args:
        denoiser: the model.
        reward: what is searched for.
        prompts: the P prompts; they are encoded here, once.
        rng: the noise of the search; values draw from `rng.under("their name")`.
        pool: whether beams of one group may carry different prompts.
        chunks: the most rows at once.
        meter: counts what is spent.
        share: this process's part, where several run the search together.

    Attributes:
        ragged: whether some candidates were not drawn (those of prompt -1). To look for them waits for the device, so
            it is done only once there are some.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        reward: Reward,
        prompts: list[str],
        *,
        rng: Rng,
        pool: bool,
        chunks: Chunks,
        meter: Meter,
        share: Share | None = None,
    ) -> None:
        self.denoiser, self.prompts, self.rng = denoiser, prompts, rng
        self.meter, self.share, self.ragged = meter, share, False
        self._reward, self._pool, self._sizes = reward, pool, Sizes(chunks)
        self._watching = ""
        self._cond = denoiser.encode(list(prompts))
        self._unread: list[tuple[Tensor, Callable[[Tensor], None]]] = []
        self._read: tuple[Tensor | None, list[int]] = None, []

    def watching(self, name: str, reward: Reward | None = None) -> Engine:
        """The same engine for what only watches: it asks this reward, and what that costs is counted as watched."""
        other = copy(self)
        other._watching, other._reward = name, reward or self._reward
        return other

    def predict(self, x: Tensor, prompt_index: Tensor, level: int) -> Prediction:
        """Samples `[B, N, ...]` at a level, `prompt_index [B, N]` -> their prediction; clean ones cost nothing."""
        batch_shape, clean = x.shape[:2], level == self.denoiser.num_steps
        x, prompt_index, drawn = self._drawn(x, prompt_index)
        self.meter.spend(Bill(model_calls=0 if clean else 1), len(x))

        def work(rows: slice, fill: int) -> Prediction:
            filled = _filled(x[rows], fill), level, self._cond, _filled(prompt_index[rows], fill)
            pred = own(self.denoiser.predict(*filled))
            return map_tree(lambda leaf: leaf[: len(leaf) - fill], pred) if fill else pred

        parts = []
        for part in [work(slice(None), 0)] if clean else self._each("network", len(x), work, level, prompt_index):
            parts.append(part)
            if not clean:
                self.meter.progress(len(part.x0))
        pred: Prediction = parts[0] if len(parts) == 1 else map_tree(lambda *leaves: torch.cat(leaves), *parts)
        self._check_finite("the network", pred.x0, level, prompt_index)
        return map_tree(lambda leaf: _put(leaf, drawn, batch_shape, 0), pred)

    def reward(self, x0: Tensor, prompt_index: Tensor, level: int) -> Tensor:
        """Clean samples or posterior means `[B, N, ...]` -> the reward of their decoded images, `[B, N]`.

        A model with a `preview` decodes by that: the full decoder is for the images that a search ends with.
        """
        return self._rewarded(x0, prompt_index, level, self._preview)[1]

    def score(self, scorer: Reward, x: Tensor, prompt_index: Tensor, level: int) -> Tensor:
        """Samples `[B, N, ...]` as they are -> what the scorer says of them, `[B, N]`; a reward call each."""
        batch_shape, prompts = x.shape[:2], self._texts(prompt_index)
        x, prompt_index, drawn = self._drawn(x, prompt_index)
        self._spend(Bill(reward_calls=1), len(x))
        return _put(_values([self._asked(scorer, x, prompts, level)], x.device), drawn, batch_shape, -torch.inf)

    def finish(self, x0: Tensor, prompt_index: Tensor) -> tuple[Tensor, Tensor]:
        """Clean samples `[B, N, ...]` -> their images `[B, N, ...]` and final rewards: a decode and a reward each."""

        def work(clean: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            images: list[Tensor] = []
            level, decode = self.denoiser.num_steps, self.denoiser.decode
            drawn, rewards = self._rewarded(clean, index, level, decode, images.append)
            return _put(torch.cat(images), drawn, clean.shape[:2], 0), rewards

        if self.share is None:
            return work(x0, prompt_index)
        return self.shared(lambda part: work(x0[:, part], prompt_index[:, part]), x0.shape[1])

    def show(self, x0: Tensor, prompt_index: Tensor, level: int, of: Callable[[Tensor], Tensor]) -> Tensor:
        """`[B, N, ...]` -> what `of` makes of their decoded images `[R, ...]`, `[B, N, ...]`."""
        batch_shape, (x0, prompt_index, drawn) = x0.shape[:2], self._drawn(x0, prompt_index)
        self._spend(Bill(decodes=1), len(x0))
        parts = [
            of(self._decoded(x0[rows], prompt_index[rows], level, self._preview))
            for rows in self._sizes.slices(len(x0), "decoder")
        ]
        return _put(torch.cat(parts), None if drawn is None else drawn.to(parts[0].device), batch_shape, 0)

    def rate(self, images: Tensor, prompts: Sequence[Sequence[str]]) -> Tensor:
        """The reward of images `[B, K, ...]` that are decoded already, `[B, K]`."""
        flat, texts = images.flatten(0, 1), [text for group in prompts for text in group]
        self._spend(Bill(reward_calls=1), len(flat))
        said = self._asked(self._reward, flat, texts, self.denoiser.num_steps)
        return _values([said], images.device).unflatten(0, images.shape[:2])

    def judged(self, final: Tournament, images: Tensor, beams: Beams, prompts: list[list[str]]) -> Outcome:
        """The final choice among images `[B, K, ...]`, best first, of which one process of several asks the judge."""
        told = self.share is None or self.share.rank == 0
        zeros = torch.zeros(beams.value.shape, dtype=torch.long, device="cpu")
        outcome = Outcome(zeros, zeros[:, 0], zeros[:, 0])
        if told:
            try:
                outcome = final(images.clone(), beams.value.clone(), prompts, self._compared)
            except Exception as error:
                said = f"the judge of the final choice raised {type(error).__name__}: {error}"
                refused = RewardError(said, self.denoiser.num_steps, [text for group in prompts for text in group])
                refused.beams, refused.reached = beams, self.denoiser.num_steps
                raise refused from error
        if self.share is None:
            return outcome
        own = torch.full_like(zeros, told, dtype=torch.bool)
        order = self.share.exchange(outcome.order, own)
        counts = self.share.exchange(torch.stack([outcome.comparisons, outcome.ties], dim=1), own[:, :1].expand(-1, 2))
        return Outcome(order, *counts.unbind(1))

    def _compared(self, pairs: int) -> None:
        self._spend(Bill(comparisons=1), pairs)

    def block(self, groups: int) -> int:
        """Candidates of each group to hold at once, where not all need be."""
        most = self._sizes.now.block
        return sys.maxsize if most is None else max(1, most // groups)

    def mine(self, total: int) -> range:
        """This process's part of so many candidates: all, or as many as any other has, give or take one."""
        rank, size = (0, 1) if self.share is None else (self.share.rank, self.share.size)
        return range(total * rank // size, total * (rank + 1) // size)

    def shared(self, work: Callable[[slice], Tree], total: int) -> Tree:
        """The work of all `total` candidates, leaves `[B, total, ...]`, each process doing its part.

        Where there are fewer candidates than processes every process does all of them, which takes no longer, and one
        of them counts it.
        """
        if self.share is None:
            return work(slice(None))
        if total < self.share.size:
            with self.meter.counting(self.share.rank == 0):
                return work(slice(None))
        mine = self.mine(total)
        return self.share.gather(work(slice(mine.start, mine.stop)), total)

    @contextmanager
    def drawing(self, rng: Rng) -> Iterator[None]:
        """Within, everything draws from this source."""
        before, self.rng = self.rng, rng
        try:
            yield
        finally:
            self.rng = before

    def settle(self) -> None:
        """Read the checks left on an accelerator, so that no nan passes. Called once, when the search ends."""
        unread = list(self._unread)
        self._unread.clear()
        if unread:
            found = torch.stack([bad.any().to(unread[0][0].device) for bad, _ in unread]).tolist()  # one wait for all
            for _, (bad, refuse) in filter(lambda pair: pair[0], zip(found, unread, strict=True)):
                refuse(bad)

    @property
    def chunks(self) -> Chunks:
        """The sizes in use: smaller than given where memory ran out."""
        return self._sizes.now

    @property
    def _preview(self) -> Callable[[Tensor], Tensor]:
        return getattr(self.denoiser, "preview", self.denoiser.decode)

    def _spend(self, bill: Bill, rows: int) -> None:
        self.meter.spend(bill, rows, watching=bool(self._watching))

    def _rewarded(
        self,
        x0: Tensor,
        prompt_index: Tensor,
        level: int,
        decode: Callable[[Tensor], Tensor],
        see: Callable[[Tensor], object] = lambda images: None,
    ) -> tuple[Tensor | None, Tensor]:
        """Which flat rows were drawn (None: all), and the rewards `[B, N]`; `see` is told of the images."""
        batch_shape, prompts = x0.shape[:2], self._texts(prompt_index)
        x0, prompt_index, drawn = self._drawn(x0, prompt_index)
        self._spend(Bill(decodes=1, reward_calls=1), len(x0))
        host = getattr(self._reward, "on_host", False)
        values: list[Tensor] = []
        with _one_behind(host) as submit:
            # A reward on the host takes what one decode makes, so that it works while the device decodes the next.
            for rows in self._sizes.slices(len(x0), "decoder" if host else "reward"):
                images = self._decoded(x0[rows], prompt_index[rows], level, decode)
                see(images)
                seen = _on_host(images) if host else partial(_same, images)
                values += submit(partial(self._seen, seen, prompts[rows], level))
            values += submit(None)
        return drawn, _put(_values(values, x0.device), drawn, batch_shape, -torch.inf)

    def _seen(self, images: Callable[[], Tensor], prompts: list[str], level: int) -> Tensor:
        return self._asked(self._reward, images(), prompts, level)

    def _drawn(self, x: Tensor, prompt_index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """`[B, N, ...]` -> the flat rows that were drawn, and where they are (None: everywhere)."""
        rows = [i for i, p in enumerate(self._numbers(prompt_index)) if p >= 0] if self.ragged else None
        x, prompt_index = x.flatten(0, 1), prompt_index.flatten()
        if rows is None or len(rows) == len(prompt_index):
            return x, prompt_index, None
        drawn = move(torch.tensor(rows, dtype=torch.long, device="cpu"), prompt_index.device)
        return x[drawn], prompt_index[drawn], drawn

    def _numbers(self, prompt_index: Tensor) -> list[int]:
        """Which prompts rows have, on the host. To read it waits for the device, so that a tensor is read once."""
        if self._read[0] is not prompt_index:
            self._read = prompt_index, prompt_index.flatten().tolist()
        return self._read[1]

    def knows(self, prompt_index: Tensor, numbers: Sequence[int]) -> None:
        """What whoever made `prompt_index` knows of it: which prompts its rows have, so that it need not be read."""
        self._read = prompt_index, list(numbers)

    def copied(self, candidates: Beams) -> Beams:
        """Candidates for a callable of the user's: what was read of theirs is known of the copy."""
        mine = own(candidates)
        if self._read[0] is candidates.prompt_index:
            self._read = mine.prompt_index, self._read[1]
        return mine

    def _decoded(self, x0: Tensor, prompt_index: Tensor, level: int, decode: Callable[[Tensor], Tensor]) -> Tensor:
        def work(rows: slice, fill: int) -> Tensor:
            images = own(decode(_filled(x0[rows], fill)))
            return images[: len(images) - fill] if fill else images

        parts = list(self._each("decoder", len(x0), work, level, prompt_index))
        images = torch.cat(parts) if len(parts) > 1 else parts[0]
        self._check_finite("the decoder", images, level, prompt_index)
        return images

    def _asked(self, scorer: Reward, images: Tensor, prompts: list[str], level: int) -> Tensor:
        def work(rows: slice, fill: int) -> Tensor:
            return self._ask(scorer, images[rows].clone(), prompts[rows], level)

        parts = list(self._each("reward", len(images), work, level, prompts))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _each(
        self, kind: Kind, rows: int, work: Callable[[slice, int], Tree], level: int, prompts: Tensor | list[str]
    ) -> Iterator[Tree]:
        """`Sizes.each`, whose last resort is an error that names the prompt."""
        try:
            yield from self._sizes.each(rows, kind, work)
        except OutOfMemory as error:
            texts = prompts if isinstance(prompts, list) else self._named(prompts)
            raise ModelError(str(error), level, texts[error.row : error.row + 1]) from error.__cause__

    def _ask(self, scorer: Reward, images: Tensor, prompts: list[str], level: int) -> Tensor:
        who = f"the held-out reward {self._watching!r}" if self._watching else "the reward"
        try:
            said = scorer(images, list(prompts))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise RewardError(f"{who} raised {type(error).__name__}: {error}", level, prompts) from error
        try:
            value = _numbers(said, len(images))
        except (TypeError, ValueError) as error:
            raise RewardError(f"{who} returned {error}; return one real number per image", level, prompts) from error

        def refuse(bad: Tensor) -> None:
            if where := bad.nonzero().flatten().tolist():
                raise RewardError(
                    f"{who} is nan for {len(where)} of {len(prompts)} images", level, [prompts[i] for i in where]
                )

        self._check(value.isnan(), refuse)
        return value

    def _check_finite(self, who: str, made: Tensor, level: int, prompt_index: Tensor) -> None:
        if not made.is_floating_point():
            return

        def refuse(bad: Tensor) -> None:
            if where := bad.nonzero().flatten().tolist():
                raise ModelError(
                    f"{who} returned nan or infinity for {len(where)} of {len(bad)} rows; "
                    "half precision overflows: try bfloat16 or float32",
                    level,
                    self._named(prompt_index[where]),
                )

        self._check(~made.flatten(1).isfinite().all(dim=1), refuse)

    def _check(self, bad: Tensor, refuse: Callable[[Tensor], None]) -> None:
        # Reading a flag from an accelerator would stall it at every step, so there it waits until the end.
        if bad.device.type == "cpu":
            refuse(bad)
        else:
            self._unread.append((bad, refuse))

    def _named(self, prompt_index: Tensor) -> list[str]:
        return [self.prompts[i] for i in prompt_index.tolist()]

    def _texts(self, prompt_index: Tensor) -> list[str]:
        """The prompts of the rows that were drawn, of `[B, N]`."""
        if self.ragged or (self._pool and len(self.prompts) > 1):  # the device alone knows
            return [self.prompts[i] for i in self._numbers(prompt_index) if i >= 0]
        return [text for text in self.prompts for _ in range(prompt_index.shape[1])]


def _numbers(said: Any, n: int) -> Tensor:
    """What a reward returned as `[n]` numbers of its own: at least float32, whole numbers in float64 where it exists.

    Raises:
        TypeError, ValueError: saying what was returned instead.
    """
    if isinstance(said, tuple):
        raise TypeError(f"a tuple of {len(said)}")
    try:
        value = said.detach() if isinstance(said, Tensor) else torch.as_tensor(said, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"a {type(said).__name__}") from error
    if value.shape != (n,):
        raise ValueError(f"shape {tuple(value.shape)} for {n} images")
    if value.is_complex():
        raise TypeError(f"{value.dtype} numbers")
    whole = not value.is_floating_point() and value.dtype != torch.bool
    dtype = weight_dtype(value.device) if whole else torch.promote_types(value.dtype, torch.float32)
    return value.to(dtype, copy=True)


def _values(parts: list[Tensor], device: torch.device) -> Tensor:
    """The values of all parts on a device, in a precision that it has."""
    return torch.cat([move(part, device) for part in parts])


@contextmanager
def _one_behind(threaded: bool) -> Iterator[Callable[[Callable[[], Tensor] | None], list[Tensor]]]:
    """Yields `submit(job)`, which returns the results of earlier jobs; `submit(None)` returns all that are left.

    Threaded, a job runs while its successor is prepared. At most one waits, so that memory stays bounded.
    """
    if not threaded:
        yield lambda job: [] if job is None else [job()]
        return
    waiting: list[Future[Tensor]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="reward") as pool:

        def submit(job: Callable[[], Tensor] | None) -> list[Tensor]:
            ready = [future.result() for future in waiting]
            waiting[:] = [] if job is None else [pool.submit(torch.no_grad()(job))]  # a thread records gradients anew
            return ready

        yield submit


def _on_host(images: Tensor) -> Callable[[], Tensor]:
    """Starts the copy to the host behind the work that is queued; what is returned waits for it alone."""
    return _pinned(images) if images.device.type == "cuda" else images.cpu


def _pinned(images: Tensor) -> Callable[[], Tensor]:  # pragma: no cover  # CUDA's streams
    host = torch.empty(images.shape, dtype=images.dtype, device="cpu", pin_memory=True).copy_(images, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(images.device))

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait


def _same(images: Tensor) -> Tensor:
    return images


def _filled(rows: Tensor, fill: int) -> Tensor:
    """`[R, ...]` -> `[R + fill, ...]` of its own, the last row repeated."""
    return torch.cat([rows, rows[-1:].expand(fill, *rows.shape[1:])]) if fill else rows.clone()


def _put(leaf: Tensor, drawn: Tensor | None, batch_shape: torch.Size, empty: float) -> Tensor:
    """Flat rows `[R, ...]` -> `[B, N, ...]`, each in its place and `empty` where nothing was drawn."""
    if drawn is None:
        return leaf.unflatten(0, batch_shape)
    full = leaf.new_full((batch_shape.numel(), *leaf.shape[1:]), empty)
    return full.index_copy_(0, drawn, leaf).unflatten(0, batch_shape)
