"""The engine: runs the networks over chunks of rows, counts the bill, checks what rewards return."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

from .contract import Beams, Denoiser, Prediction, Reward, Rng, Share, Tree, map_tree
from .plan import Bill, positive
from .rng import move

__all__ = ["Chunks", "Engine", "ModelError", "RewardError", "SearchError"]

T = TypeVar("T")


class SearchError(RuntimeError):
    """What a search could not go on with.

    Attributes:
        step: the noise level reached (`num_steps` is clean).
        prompts: those of the rows concerned.
        beams: the survivors of the last step that was complete, with `step` of their own in `reached`; None where there
            is none. Their posterior means `beams.pred.x0` can be decoded, so that what was paid for is not lost.
        reached: the noise level of `beams`.
    """

    def __init__(self, message: str, step: int, prompts: list[str]) -> None:
        shown = ", ".join(map(repr, dict.fromkeys(prompts)))
        super().__init__(f"{message} (step {step}, prompts {shown})")
        self.step, self.prompts = step, prompts
        self.beams: Beams | None = None
        self.reached: int | None = None


class RewardError(SearchError):
    """A reward raised, or returned something other than one number an image."""


class ModelError(SearchError):
    """The network or the decoder returned nan or infinity, or does not fit into memory with a single row."""


class Chunks:
    """Rows at once through the network, the decoder and the reward; they change memory and speed, not the result.

    Each is the most that is tried. Where memory runs out the size is halved and stays so.

    Args:
        chunk: rows through the network; None for all.
        decode_chunk: rows through the decoder.
        reward_chunk: images into the reward.
        pad: fill the network's and the decoder's chunks up with repeated rows, so that what is compiled sees one shape.
    """

    def __init__(
        self,
        chunk: int | None = 32,
        decode_chunk: int | None = 16,
        reward_chunk: int | None = 64,
        pad: bool = False,
    ) -> None:
        given = {"chunk": chunk, "decode_chunk": decode_chunk, "reward_chunk": reward_chunk}
        self.sizes = {name: None if size is None else positive(name, size) for name, size in given.items()}
        if pad and None in (chunk, decode_chunk):
            raise ValueError("pad=True fills chunks up to their size; give chunk and decode_chunk as numbers")
        self.pad = pad

    def block(self) -> int | None:
        """Candidates to hold at once: as many as the largest chunk takes."""
        sizes = list(self.sizes.values())
        return None if None in sizes else max(size for size in sizes if size is not None)


class Engine:
    """Everything of a search that costs: network rows, decodes and rewards, counted as they happen.

    Args:
        denoiser: the model.
        reward: what is searched for.
        prompts: the P prompts; they are encoded here, once.
        rng: for values that draw (`rng.under("their name")`); a noise search changes it from round to round.
        pool: whether beams of one group may carry different prompts.
        ragged: whether some candidates may not be drawn (those of prompt -1).
        chunks: rows at once.
        allowance: the plan's bill for all groups together; spending more raises a RuntimeError.
        advance: told the rows of each network call (a progress bar).
        share: this process's part, where several run the search together.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        reward: Reward,
        prompts: list[str],
        *,
        rng: Rng,
        pool: bool,
        ragged: bool,
        chunks: Chunks,
        allowance: Bill,
        advance: Callable[[int], object],
        share: Share | None = None,
    ) -> None:
        self.denoiser, self.prompts, self.rng, self.ragged = denoiser, prompts, rng, ragged
        self.share, self._billed = share, True
        self.spent, self.watched, self._till = Bill(), Bill(), Lock()  # rewards on the host spend from their thread
        self._reward, self._pool, self._chunks = reward, pool, chunks
        self._allowance, self._advance = allowance, advance
        self._cond = denoiser.encode(prompts)
        self._unread: list[tuple[Tensor, Callable[[Tensor], None]]] = []
        self._read: tuple[Tensor | None, list[int]] = None, []

    def predict(self, x: Tensor, prompt: Tensor, step: int) -> Prediction:
        """Samples `[B, N, ...]` at level `step`, prompts `[B, N]` -> their prediction; clean ones cost nothing."""
        lead, clean = x.shape[:2], step == self.denoiser.num_steps
        x, prompt, drawn = self._drawn(x, prompt)
        if clean:
            pred = self.denoiser.predict(x, step, self._cond, prompt)
            return map_tree(lambda leaf: _put(leaf, drawn, lead, 0), pred)

        def work(rows: slice, fill: int) -> Prediction:
            pred = self.denoiser.predict(_filled(x[rows], fill), step, self._cond, _filled(prompt[rows], fill))
            return map_tree(lambda leaf: leaf[: len(leaf) - fill], pred) if fill else pred

        parts = []
        for rows, part in self._each("chunk", len(x), work, step, prompt, Bill(model_calls=1)):
            parts.append(part)
            self._advance(rows.stop - rows.start)
        joined: Prediction = map_tree(lambda *leaves: torch.cat(leaves) if len(leaves) > 1 else leaves[0], *parts)
        self._check_finite("the network", joined.x0, step, prompt)
        return map_tree(lambda leaf: _put(leaf, drawn, lead, 0), joined)

    def reward(self, x0: Tensor, prompt: Tensor, step: int) -> Tensor:
        """Clean samples or posterior means `[B, N, ...]` -> the reward of their decoded images, `[B, N]`.

        A model with a `preview` shows that: the full decoder is for the images that a search ends with.
        """
        return self._rewarded(x0, prompt, step, self._preview)[1]

    def score(self, scorer: Reward, x: Tensor, prompt: Tensor, step: int) -> Tensor:
        """Samples `[B, N, ...]` as they are -> what the scorer says of them, `[B, N]`; a reward call each."""
        lead, prompts = x.shape[:2], self._texts(prompt)
        x, prompt, drawn = self._drawn(x, prompt)
        value = self._asked(scorer, x, prompts, step)
        return _put(move(value, x.device), drawn, lead, -torch.inf)

    def block(self, groups: int) -> int:
        """Candidates of each group to hold at once, where not all need be."""
        most = self._chunks.block()
        return sys.maxsize if most is None else max(1, most // groups)

    def mine(self, total: int) -> range:
        """This process's part of so many candidates: all, or as many as any other has, give or take one."""
        rank, size = (0, 1) if self.share is None else (self.share.rank, self.share.size)
        return range(total * rank // size, total * (rank + 1) // size)

    def shared(self, work: Callable[[slice], Tree], total: int) -> Tree:
        """The work of all `total` candidates, leaves `[B, total, ...]`, each process doing its part.

        Where there are fewer candidates than processes all do the same, which takes no longer; it is billed once.
        """
        if self.share is None:
            return work(slice(None))
        if total < self.share.size:
            self._billed = self.share.rank == 0
            done = work(slice(None))
            self._billed = True
            return done
        mine = self.mine(total)
        return self.share.gather(work(slice(mine.start, mine.stop)), total)

    @contextmanager
    def drawing(self, rng: Rng) -> Iterator[None]:
        """Within, values draw from this source."""
        before, self.rng = self.rng, rng
        try:
            yield
        finally:
            self.rng = before

    def finish(self, x0: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Clean samples `[B, N, ...]` -> their images `[B, N, ...]` and final rewards: a decode and a reward each."""
        if self.share is None:
            return self._finished(x0, prompt)
        return self.shared(lambda own: self._finished(x0[:, own], prompt[:, own]), x0.shape[1])

    def _finished(self, x0: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        images: list[Tensor] = []
        drawn, rewards = self._rewarded(x0, prompt, self.denoiser.num_steps, self.denoiser.decode, images.append)
        return _put(torch.cat(images), drawn, x0.shape[:2], 0), rewards

    def observe(self, name: str, watcher: Reward, x0: Tensor, prompt: Tensor, step: int) -> Tensor:
        """What a reward that never steers says of `[B, N, ...]`: `[B, N]`; counted apart, in `watched`."""
        return self._rewarded(x0, prompt, step, self._preview, watcher=watcher, watching=name)[1]

    def show(self, x0: Tensor, prompt: Tensor, step: int, of: Callable[[Tensor], Tensor]) -> Tensor:
        """`[B, N, ...]` -> what `of` makes of their decoded images `[R, ...]`, `[B, N, ...]`; counted in `watched`."""
        lead, (x0, prompt, drawn) = x0.shape[:2], self._drawn(x0, prompt)
        parts = [
            of(self._decoded(x0[rows], prompt[rows], step, self._preview, "thumbnails"))
            for rows in _slices(len(x0), self._chunks.sizes["decode_chunk"])
        ]
        return _put(torch.cat(parts), None if drawn is None else drawn.to(parts[0].device), lead, 0)

    def observe_images(self, name: str, watcher: Reward, images: Tensor, prompts: list[list[str]]) -> Tensor:
        """The same of images `[B, K, ...]` that are decoded already."""
        flat, texts = images.flatten(0, 1), [text for group in prompts for text in group]
        said = self._asked(watcher, flat, texts, self.denoiser.num_steps, name)
        return move(said, images.device).unflatten(0, images.shape[:2])

    def allow(self, bill: Bill) -> None:
        """Raises the allowance: what an interrupt cut off is paid for, and so is saving the best so far."""
        self._allowance = self._allowance.plus(bill)

    def settle(self) -> None:
        """Read the checks left on an accelerator, so that no nan passes. Called once, when the search ends."""
        unread, self._unread = self._unread, []
        if unread:  # an accelerator's: on the CPU checks are read at once
            found = torch.stack([bad.any().to(unread[0][0].device) for bad, _ in unread]).tolist()  # one wait for all
            for _, (bad, refuse) in filter(lambda pair: pair[0], zip(found, unread, strict=True)):
                refuse(bad)

    def sizes(self) -> dict[str, int | None]:
        """The chunk sizes in use, as `search` takes them: smaller than given where memory ran out."""
        return dict(self._chunks.sizes)

    @property
    def _preview(self) -> Callable[[Tensor], Tensor]:
        return getattr(self.denoiser, "preview", self.denoiser.decode)

    def _rewarded(
        self,
        x0: Tensor,
        prompt: Tensor,
        step: int,
        decode: Callable[[Tensor], Tensor],
        see: Callable[[Tensor], object] = lambda images: None,
        watcher: Reward | None = None,
        watching: str = "",
    ) -> tuple[Tensor | None, Tensor]:
        scorer = self._reward if watcher is None else watcher
        lead, prompts = x0.shape[:2], self._texts(prompt)
        x0, prompt, drawn = self._drawn(x0, prompt)
        host, sizes = getattr(scorer, "on_host", False), self._chunks.sizes
        # A reward on the host takes what one decode makes, so that it works while the device decodes the next.
        group = sizes["decode_chunk"] if host else sizes["reward_chunk"]
        values: list[Tensor] = []

        def score(seen: Callable[[], Tensor], texts: list[str]) -> Tensor:
            return self._asked(scorer, seen(), texts, step, watching)

        with _one_behind(host) as soon:
            for rows in _slices(len(x0), group):
                images = self._decoded(x0[rows], prompt[rows], step, decode, watching)
                see(images)
                seen = _on_host(images) if host else partial(_same, images)
                values += soon(partial(score, seen, prompts[rows]))
            values += soon(None)
        return drawn, _put(torch.cat([move(v, x0.device) for v in values]), drawn, lead, -torch.inf)

    def _drawn(self, x: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """`[B, N, ...]` -> the flat rows that were drawn, and where they are (None: everywhere)."""
        rows = [i for i, number in enumerate(self._numbers(prompt)) if number >= 0] if self.ragged else None
        x, prompt = x.flatten(0, 1), prompt.flatten()
        if rows is None or len(rows) == len(prompt):
            return x, prompt, None
        drawn = move(torch.tensor(rows, dtype=torch.long), prompt.device)
        return x[drawn], prompt[drawn], drawn

    def _numbers(self, prompt: Tensor) -> list[int]:
        """The prompts `[B, N]` of flat rows, on the host: this waits for the device, so a tensor is read once."""
        if self._read[0] is not prompt:
            self._read = prompt, prompt.flatten().tolist()
        return self._read[1]

    def _decoded(
        self, x0: Tensor, prompt: Tensor, step: int, decode: Callable[[Tensor], Tensor], watching: str
    ) -> Tensor:
        def work(rows: slice, fill: int) -> Tensor:
            images = decode(_filled(x0[rows], fill))
            return images[: len(images) - fill] if fill else images

        done = self._each("decode_chunk", len(x0), work, step, prompt, Bill(decodes=1), watching)
        parts = [part for _, part in done]
        images = torch.cat(parts) if len(parts) > 1 else parts[0]
        self._check_finite("the decoder", images, step, prompt)
        return images

    def _asked(self, scorer: Reward, images: Tensor, prompts: list[str], step: int, watching: str = "") -> Tensor:
        def work(rows: slice, fill: int) -> Tensor:
            return self._ask(scorer, images[rows], prompts[rows], step, watching)

        done = self._each("reward_chunk", len(images), work, step, prompts, Bill(reward_calls=1), watching)
        parts = [part for _, part in done]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _each(
        self,
        kind: str,
        rows: int,
        work: Callable[[slice, int], T],
        step: int,
        prompt: Tensor | list[str],
        bill: Bill,
        watching: str = "",
    ) -> Iterator[tuple[slice, T]]:
        """The work of nearly equal slices of the rows: a small last one would cost nearly as much as a full one.

        What does not fit into memory is tried again in halves, and the size that fits is remembered. `work` is told how
        many rows to fill a slice up with. Rows are billed once, however often they are tried.
        """
        at = billed = 0
        while at < rows:
            size, left = self._chunks.sizes[kind] or rows, rows - at
            fills = self._chunks.pad and kind != "reward_chunk"
            n = min(size, left) if fills else -(-left // -(-left // size))
            if at + n > billed:
                self._spend(Bill().plus(bill, at + n - billed), watching)
                billed = at + n
            try:
                part = work(slice(at, at + n), size - n if fills else 0)
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                if size == 1:
                    texts = prompt if isinstance(prompt, list) else self._named(prompt)
                    said = str(error).splitlines()[0].rstrip(".")
                    raise ModelError(
                        f"out of memory with {kind}=1: {said}; use half precision, smaller images, "
                        "fewer beams, or offloading (pipe.enable_model_cpu_offload())",
                        step,
                        texts[at : at + n],
                    ) from error
                part = None
            if part is None:  # outside the handler: the error's frames held what it had made
                self._chunks.sizes[kind] = (size if fills else n) // 2 or 1
                if torch.cuda.is_available():  # pragma: no cover  # a GPU's cache
                    torch.cuda.empty_cache()
                continue
            yield slice(at, at + n), part
            at += n

    def _ask(self, scorer: Reward, images: Tensor, prompts: list[str], step: int, watching: str = "") -> Tensor:
        who = f"the panel's {watching!r}" if watching else "the reward"
        try:
            value = torch.as_tensor(scorer(images, prompts))
        except Exception as error:
            if _out_of_memory(error):
                raise
            raise RewardError(f"{who} raised {type(error).__name__}: {error}", step, prompts) from error
        if value.shape != (len(images),):
            raise RewardError(
                f"{who} returned shape {tuple(value.shape)} for {len(images)} images; return one number an image",
                step,
                prompts,
            )
        value = value.to(torch.promote_types(value.dtype, torch.float32))

        def refuse(bad: Tensor) -> None:
            if where := bad.nonzero().flatten().tolist():
                raise RewardError(
                    f"{who} is nan for {len(where)} of {len(prompts)} images", step, [prompts[i] for i in where]
                )

        self._check(value.isnan(), refuse)
        return value

    def _check_finite(self, who: str, made: Tensor, step: int, prompt: Tensor) -> None:
        if not made.is_floating_point():
            return

        def refuse(bad: Tensor) -> None:
            if where := bad.nonzero().flatten().tolist():
                raise ModelError(
                    f"{who} returned nan or infinity for {len(where)} of {len(bad)} rows; "
                    "half precision overflows: try bfloat16 or float32",
                    step,
                    self._named(prompt[where]),
                )

        self._check(~made.flatten(1).isfinite().all(dim=1), refuse)

    def _check(self, bad: Tensor, refuse: Callable[[Tensor], None]) -> None:
        # Reading a flag from an accelerator would stall it at every step, so there it waits until the end.
        if bad.device.type == "cpu":
            refuse(bad)
        else:
            self._unread.append((bad, refuse))

    def _named(self, prompt: Tensor) -> list[str]:
        return [self.prompts[i] for i in prompt.tolist()]

    def _texts(self, prompt: Tensor) -> list[str]:
        """The prompts of the rows that were drawn."""
        if self.ragged or (self._pool and len(self.prompts) > 1):  # the device alone knows
            return [self.prompts[number] for number in self._numbers(prompt) if number >= 0]
        return [text for text in self.prompts for _ in range(prompt.shape[1])]

    def _spend(self, bill: Bill, watching: str = "") -> None:
        if not self._billed:
            return
        with self._till:
            if watching:
                self.watched = self.watched.plus(bill)
                return
            self.spent = self.spent.plus(bill)
        if self.spent.exceeds(self._allowance):
            raise RuntimeError(
                f"this step would spend {self.spent}, above the planned {self._allowance}; "
                "a value's cost() must cover what it spends"
            )


@contextmanager
def _one_behind(threaded: bool) -> Iterator[Callable[[Callable[[], Tensor] | None], list[Tensor]]]:
    """A function that takes the next work and returns the results of works before it; at last, given None, all.

    Threaded, a work runs while its successor is prepared. At most one waits, so that memory stays bounded.
    """
    if not threaded:
        yield lambda work: [] if work is None else [work()]
        return
    waiting: list[Future[Tensor]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="reward") as pool:

        def soon(work: Callable[[], Tensor] | None) -> list[Tensor]:
            ready = [future.result() for future in waiting]
            waiting[:] = [] if work is None else [pool.submit(torch.no_grad()(work))]  # a thread records gradients anew
            return ready

        yield soon


def _on_host(images: Tensor) -> Callable[[], Tensor]:
    """Starts the copy to the host behind the work that is queued; what is returned waits for it alone."""
    return _pinned(images) if images.device.type == "cuda" else images.cpu


def _pinned(images: Tensor) -> Callable[[], Tensor]:  # pragma: no cover  # CUDA's streams
    host = torch.empty(images.shape, dtype=images.dtype, pin_memory=True).copy_(images, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(images.device))

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait


def _same(images: Tensor) -> Tensor:
    return images


def _slices(rows: int, size: int | None) -> Iterator[slice]:
    """Nearly equal slices of at most `size` rows."""
    parts = -(-rows // (size or rows))
    return (slice(rows * i // parts, rows * (i + 1) // parts) for i in range(parts))


def _filled(rows: Tensor, fill: int) -> Tensor:
    """`[R, ...]` -> `[R + fill, ...]`, the last row repeated."""
    return torch.cat([rows, rows[-1:].expand(fill, *rows.shape[1:])]) if fill else rows


def _out_of_memory(error: BaseException) -> bool:
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        type(error) is RuntimeError and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )


def _put(leaf: Tensor, drawn: Tensor | None, lead: torch.Size, empty: float) -> Tensor:
    """Flat rows `[R, ...]` -> `[B, N, ...]`, each in its place and `empty` where nothing was drawn."""
    if drawn is None:
        return leaf.unflatten(0, lead)
    full = leaf.new_full((lead.numel(), *leaf.shape[1:]), empty)
    return full.index_copy_(0, drawn, leaf).unflatten(0, lead)
