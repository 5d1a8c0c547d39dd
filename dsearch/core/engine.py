"""The engine: runs the networks over chunks of rows, counts the bill, checks what rewards return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from .contract import Denoiser, Prediction, Reward, Rng, map_tree
from .plan import Bill, positive

__all__ = ["Chunks", "Engine", "RewardError"]


class RewardError(RuntimeError):
    """A reward raised, or returned something other than one number an image.

    Attributes:
        step: the noise level reached (`num_steps` is clean).
        prompts: those of the rows concerned.
    """

    def __init__(self, message: str, step: int, prompts: list[str]) -> None:
        shown = ", ".join(map(repr, dict.fromkeys(prompts)))
        super().__init__(f"{message} (step {step}, prompts {shown})")
        self.step, self.prompts = step, prompts


class Chunks:
    """Rows at once through the network, the decoder and the reward; they change memory and speed, not the result."""

    def __init__(self, chunk: int | None = 32, decode: int | None = 16, reward: int | None = 64) -> None:
        self.chunk = None if chunk is None else positive("chunk", chunk)
        self.decode = None if decode is None else positive("decode_chunk", decode)
        self.reward = None if reward is None else positive("reward_chunk", reward)


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
    ) -> None:
        self.denoiser, self.prompts, self.rng, self.ragged = denoiser, prompts, rng, ragged
        self.spent, self.watched = Bill(), Bill()
        self._reward, self._pool, self._chunks = reward, pool, chunks
        self._allowance, self._advance = allowance, advance
        self._cond = denoiser.encode(prompts)
        self._unread: list[tuple[Tensor, int, list[str]]] = []

    def predict(self, x: Tensor, prompt: Tensor, step: int) -> Prediction:
        """Samples `[B, N, ...]` at level `step`, prompts `[B, N]` -> their prediction; clean ones cost nothing."""
        lead, clean = x.shape[:2], step == self.denoiser.num_steps
        x, prompt, drawn = self._drawn(x, prompt)
        parts = []
        for rows in _slices(len(x), None if clean else self._chunks.chunk):
            if not clean:
                self._spend(Bill(model_calls=len(x[rows])))
            parts.append(self.denoiser.predict(x[rows], step, self._cond, prompt[rows]))
            if not clean:
                self._advance(len(x[rows]))
        joined: Prediction = map_tree(lambda *leaves: torch.cat(leaves) if len(leaves) > 1 else leaves[0], *parts)
        return map_tree(lambda leaf: _put(leaf, drawn, lead, 0), joined)

    def reward(self, x0: Tensor, prompt: Tensor, step: int) -> Tensor:
        """Clean samples or posterior means `[B, N, ...]` -> the reward of their decoded images, `[B, N]`."""
        return self._rewarded(x0, prompt, step, lambda images: None)[1]

    def score(self, scorer: Reward, x: Tensor, prompt: Tensor, step: int) -> Tensor:
        """Samples `[B, N, ...]` as they are -> what the scorer says of them, `[B, N]`; a reward call each."""
        lead, (x, prompt, drawn) = x.shape[:2], self._drawn(x, prompt)
        prompts = self._texts(prompt, drawn, lead)
        values = [self._ask(scorer, x[rows], prompts[rows], step) for rows in _slices(len(x), self._chunks.reward)]
        return _put(torch.cat(values).to(x.device), drawn, lead, -torch.inf)

    def finish(self, x0: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Clean samples `[B, N, ...]` -> their images `[B, N, ...]` and final rewards: a decode and a reward each."""
        images: list[Tensor] = []
        drawn, rewards = self._rewarded(x0, prompt, self.denoiser.num_steps, images.append)
        return _put(torch.cat(images), drawn, x0.shape[:2], 0), rewards

    def observe(self, name: str, watcher: Reward, x0: Tensor, prompt: Tensor, step: int) -> Tensor:
        """What a reward that never steers says of `[B, N, ...]`: `[B, N]`; counted apart, in `watched`."""
        return self._rewarded(x0, prompt, step, lambda images: None, watcher, name)[1]

    def observe_images(self, name: str, watcher: Reward, images: Tensor, prompts: list[list[str]]) -> Tensor:
        """The same of images `[B, K, ...]` that are decoded already."""
        flat, texts = images.flatten(0, 1), [text for group in prompts for text in group]
        step = self.denoiser.num_steps
        slices = _slices(len(flat), self._chunks.reward)
        parts = [self._ask(watcher, flat[rows], texts[rows], step, name) for rows in slices]
        return torch.cat(parts).to(images.device).unflatten(0, images.shape[:2])

    def allow(self, bill: Bill) -> None:
        """Raises the allowance: what an interrupt cut off is paid for, and so is saving the best so far."""
        self._allowance = self._allowance.plus(bill)

    def settle(self) -> None:
        """Read the checks left on an accelerator, so that no nan passes. Called once, when the search ends."""
        for bad, step, prompts in self._unread:
            _refuse_nan(bad, step, prompts)
        self._unread.clear()

    def _rewarded(
        self,
        x0: Tensor,
        prompt: Tensor,
        step: int,
        see: Callable[[Tensor], object],
        watcher: Reward | None = None,
        watching: str = "",
    ) -> tuple[Tensor | None, Tensor]:
        scorer = self._reward if watcher is None else watcher
        lead, (x0, prompt, drawn) = x0.shape[:2], self._drawn(x0, prompt)
        prompts = self._texts(prompt, drawn, lead)
        values = []
        for rows in _slices(len(x0), self._chunks.reward):
            images = self._decoded(x0[rows], watching)
            values.append(self._ask(scorer, images, prompts[rows], step, watching).to(x0.device, non_blocking=True))
            see(images)
        return drawn, _put(torch.cat(values), drawn, lead, -torch.inf)

    def _drawn(self, x: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """`[B, N, ...]` -> the flat rows that were drawn, and where they are (None: everywhere)."""
        x, prompt = x.flatten(0, 1), prompt.flatten()
        if not self.ragged:  # looking would wait for the device
            return x, prompt, None
        drawn = (prompt >= 0).nonzero()[:, 0]
        return x[drawn], prompt[drawn], drawn

    def _decoded(self, x0: Tensor, watching: str) -> Tensor:
        self._spend(Bill(decodes=len(x0)), watching)
        parts = [self.denoiser.decode(x0[rows]) for rows in _slices(len(x0), self._chunks.decode)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _ask(self, scorer: Reward, images: Tensor, prompts: list[str], step: int, watching: str = "") -> Tensor:
        self._spend(Bill(reward_calls=len(images)), watching)
        who = f"the panel's {watching!r}" if watching else "the reward"
        try:
            value = torch.as_tensor(scorer(images, prompts))
        except Exception as error:
            raise RewardError(f"{who} raised {type(error).__name__}: {error}", step, prompts) from error
        if value.shape != (len(images),):
            raise RewardError(
                f"{who} returned shape {tuple(value.shape)} for {len(images)} images; return one number an image",
                step,
                prompts,
            )
        value = value.to(torch.promote_types(value.dtype, torch.float32))
        self._check(value.isnan(), step, prompts)
        return value

    def _check(self, bad: Tensor, step: int, prompts: list[str]) -> None:
        # Reading a flag from an accelerator would stall it at every step, so there it waits until the end.
        if bad.device.type == "cpu":
            _refuse_nan(bad, step, prompts)
        else:
            self._unread.append((bad, step, prompts))

    def _texts(self, prompt: Tensor, drawn: Tensor | None, lead: torch.Size) -> list[str]:
        if (self._pool and len(self.prompts) > 1) or drawn is not None:  # the device alone knows: this waits for it
            return [self.prompts[i] for i in prompt.tolist()]
        return [text for text in self.prompts for _ in range(lead[1])]

    def _spend(self, bill: Bill, watching: str = "") -> None:
        if watching:
            self.watched = self.watched.plus(bill)
            return
        self.spent = self.spent.plus(bill)
        if self.spent.exceeds(self._allowance):
            raise RuntimeError(
                f"this step would spend {self.spent}, above the planned {self._allowance}; "
                "a value's cost() must cover what it spends"
            )


def _slices(rows: int, size: int | None) -> Iterator[slice]:
    """Nearly equal slices of at most `size` rows: a small last one would cost nearly as much as a full one."""
    parts = -(-rows // (size or rows))
    bounds = [rows * i // parts for i in range(parts + 1)]
    return (slice(a, b) for a, b in pairwise(bounds))


def _put(leaf: Tensor, drawn: Tensor | None, lead: torch.Size, empty: float) -> Tensor:
    """Flat rows `[R, ...]` -> `[B, N, ...]`, each in its place and `empty` where nothing was drawn."""
    if drawn is None:
        return leaf.unflatten(0, lead)
    full = leaf.new_full((lead.numel(), *leaf.shape[1:]), empty)
    return full.index_copy_(0, drawn, leaf).unflatten(0, lead)


def _refuse_nan(bad: Tensor, step: int, prompts: list[str]) -> None:
    where = bad.nonzero().flatten().tolist()
    if where:
        raise RewardError(
            f"the reward is nan for {len(where)} of {len(prompts)} images", step, [prompts[i] for i in where]
        )
