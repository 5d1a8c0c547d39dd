"""The one loop that runs every method."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from einops import repeat
from torch import Tensor

from .contract import Beams, Denoiser, Memory, Method, Prediction, Rng, Scores, map_tree, take
from .engine import Chunks, Engine
from .plan import Bill, Plan
from .rng import KeyedRng

__all__ = ["Lineage", "Result", "Step", "search"]


class Step(NamedTuple):
    """What one denoising step did.

    Attributes:
        step: 0 for the first.
        alive: beams before it.
        width: children a beam.
        values: `[B, N]` of all candidates, or None where nothing was scored.
    """

    step: int
    alive: int
    width: int
    values: Tensor | None


@dataclass(frozen=True)
class Lineage:
    """Who descends from whom.

    Attributes:
        child: for each step `[B, K_i]`, which of its N candidates each survivor was, in beam order.
        width: children a beam, for each step.
        order: `[B, K]`, which of the last beams each row of the result is (the result is sorted best first).
    """

    child: tuple[Tensor, ...]
    width: tuple[int, ...]
    order: Tensor

    def path(self) -> Tensor:
        """`[B, K, T]`: for each image of the result, which of the N candidates its forebear was, at each step."""
        return torch.stack(self._walk()[0], dim=-1)

    def ancestor(self) -> Tensor:
        """`[B, K]`: for each image of the result, the beam of x_T it descends from."""
        return self._walk()[1]

    def _walk(self) -> tuple[list[Tensor], Tensor]:
        beam, path = self.order, []
        for child, width in zip(reversed(self.child), reversed(self.width), strict=True):
            path.append(take(child, beam))
            beam = path[-1] // width
        return path[::-1], beam


@dataclass(frozen=True)
class Result:
    """What a search found; the K survivors of each of the B groups, best first.

    Attributes:
        images: `[B, K, 3, H, W]` in [0, 1] (whatever the model's `decode` makes).
        rewards: `[B, K]` their final rewards.
        latents: `[B, K, ...]` the clean samples they were decoded from.
        prompts: `prompts[b][k]` is the prompt of `images[b, k]`.
        log_w: `[B, K]` log importance weights, zeros without a potential.
        trace: one `Step` a denoising step.
        lineage: who descends from whom.
        bill: what was spent on each group, counted.
        planned: what `method.bill` promised; the counted one is equal, or less where a method stops early.
        plan: the plan that was run.
    """

    images: Tensor
    rewards: Tensor
    latents: Tensor
    prompts: list[list[str]]
    log_w: Tensor
    trace: list[Step]
    lineage: Lineage
    bill: Bill
    planned: Bill
    plan: Plan


Callback = Callable[[Step, Beams], object]


@torch.no_grad()
def search(
    denoiser: Denoiser,
    method: Method,
    prompts: str | Sequence[str],
    *,
    seed: int = 0,
    ids: Sequence[Hashable] | None = None,
    rng: Rng | None = None,
    chunk: int | None = 32,
    decode_chunk: int | None = 16,
    reward_chunk: int | None = 64,
    progress: bool | Callable[..., Any] = False,
    callback: Callback | None = None,
) -> Result:
    """Sample every prompt with the method and return the survivors, best first.

    Args:
        denoiser: the model, for instance `dsearch.adapters.StableDiffusion(pipe)`.
        method: for instance `dsearch.methods.dsearch(reward, beams=5, budget=25)`.
        prompts: one group each. Beams of different prompts never compete, unless the method pools them.
        seed: with the same ids, the same seed gives the same result.
        ids: one a prompt, its position by default: what names a prompt's noise. Give ids of your own, and a prompt
            meets the same noise in any batch.
        rng: a noise source instead of (seed, ids); recorded noise, say.
        chunk: rows at once through the network; None for all. Chunk sizes do not change the noise.
        decode_chunk: rows at once through the decoder.
        reward_chunk: images at once into the reward.
        progress: True for a bar over the planned network rows, or a tqdm-like class to make one.
        callback: called after each step with its `Step` and the surviving `Beams`; what it returns is ignored.

    Raises:
        ValueError: for prompts, ids or a plan that cannot be, before anything is spent.
        RewardError: where the reward raises, or returns nan or not one number an image.
    """
    prompts = _checked(prompts)
    num_steps = denoiser.num_steps
    plan = method.plan(num_steps)
    planned = plan.bill(method.value.cost)
    if plan.num_steps != num_steps:
        raise ValueError(f"the plan of {method.name} has {plan.num_steps} steps, but the model takes {num_steps}")
    groups = 1 if method.pool else len(prompts)
    if method.pool and plan.start < len(prompts):
        raise ValueError(f"{plan.start} pooled beams cannot carry {len(prompts)} prompts; start more or pass fewer")
    if rng is None:
        rng = KeyedRng(seed, _checked_ids(ids, groups))
    elif ids is not None:
        raise ValueError("ids name the noise of the default source; give ids or rng, not both")
    chunks = Chunks(chunk, decode_chunk, reward_chunk)
    trace: list[Step] = []
    lineage: list[Tensor] = []

    with _bar(progress, groups * planned.model_calls) as advance, _released(denoiser):
        engine = Engine(
            denoiser,
            method.reward,
            prompts,
            rng=rng,
            pool=method.pool,
            chunks=chunks,
            allowance=Bill().plus(planned, groups),
            advance=advance,
        )
        x = denoiser.start((groups, plan.start), rng)
        beams = engine.predict(_first(x, len(prompts), method), 0)
        for i in range(num_steps):
            noise = denoiser.noise(i, (groups, plan.alive[i], plan.width[i]), rng)
            x = denoiser.step(beams.x[:, :, None], _spread(beams.pred), i, noise)  # [B, K, w, ...]
            del noise
            beams = engine.predict(_children(beams, x), i + 1)  # [B, N, ...]
            clean = i + 1 == num_steps
            if clean:
                images, rewards = engine.finish(beams)
            values = rewards if clean else method.value(beams, i + 1, engine) if plan.score[i] else None
            if plan.score[i] and values is not None:
                beams = _narrow(beams, values, method, plan, i, rng)
            trace.append(Step(i, plan.alive[i], plan.width[i], values))
            lineage.append(beams.child)
            if callback is not None:
                callback(trace[-1], beams)
        engine.settle()

    rewards = take(rewards, beams.child)
    order = rewards.argsort(dim=-1, descending=True, stable=True)
    beams = beams.take(order)
    return Result(
        images=take(images, beams.child),
        rewards=take(rewards, order),
        latents=beams.x,
        prompts=[[prompts[p] for p in group] for group in beams.prompt.tolist()],
        log_w=beams.log_w,
        trace=trace,
        lineage=Lineage(tuple(lineage), plan.width, order),
        bill=Bill(*(spent // groups for spent in engine.spent)),
        planned=planned,
        plan=plan,
    )


def _first(x: Tensor, prompts: int, method: Method) -> Beams:
    """Pure noise `[B, K, ...]` -> beams that were never predicted or scored."""
    groups, beams = x.shape[:2]
    index = torch.arange(beams, device=x.device).repeat(groups, 1)
    nothing = torch.zeros(groups, beams, device=x.device)
    group = torch.arange(groups, device=x.device)[:, None].expand(groups, beams)
    return Beams(
        x=x,
        pred=Prediction(None, x),
        value=torch.full_like(nothing, torch.nan),
        log_w=nothing,
        memory=method.potential.initial((groups, beams), x.device),
        prompt=index % prompts if method.pool else group,
        child=index,
    )


def _spread(pred: Prediction) -> Prediction:
    """`[B, K, ...]` -> `[B, K, 1, ...]`: a parent meets its children by broadcasting, not by copies."""
    return map_tree(lambda leaf: leaf[:, :, None], pred)


def _children(beams: Beams, x: Tensor) -> Beams:
    """Parents and their children's samples `[B, K, w, ...]` -> the N candidates; light leaves are repeated."""
    width, candidates = x.shape[2], x.shape[1] * x.shape[2]

    def siblings(leaf: Tensor) -> Tensor:
        return repeat(leaf, "b k ... -> b (k w) ...", w=width)

    light: tuple[Tensor, Tensor, Memory, Tensor] = (beams.value, beams.log_w, beams.memory, beams.prompt)
    value, log_w, memory, prompt = map_tree(siblings, light)
    x = x.flatten(1, 2)
    child = torch.arange(candidates, device=x.device).repeat(x.shape[0], 1)
    return Beams(x, Prediction(None, x), value, log_w, memory, prompt, child)


def _narrow(children: Beams, value: Tensor, method: Method, plan: Plan, i: int, rng: Rng) -> Beams:
    """Candidates and their values `[B, N]` -> the survivors: weigh, choose, gather everything."""
    final = i + 1 == plan.num_steps
    scores = Scores(value, children.value, children.log_w, children.memory, i + 1, plan.width[i], final)
    increment, memory = method.potential(scores)
    scores = replace(scores, log_w=scores.log_w + increment, memory=memory)
    choice = method.select(scores, plan.keep[i], rng)
    if choice.index.shape != (len(value), plan.keep[i]):
        raise ValueError(
            f"{method.name} chose {tuple(choice.index.shape)} candidates at step {i}, "
            f"but its plan keeps {(len(value), plan.keep[i])}; its selector must return `keep` indices a group"
        )
    survivors = replace(children, value=value, memory=memory).take(choice.index)
    return replace(survivors, log_w=choice.log_w)


def _checked(prompts: str | Sequence[str]) -> list[str]:
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ValueError("no prompts; pass at least one (the empty string is a prompt)")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"prompt {prompt!r} is not a string")
    return prompts


def _checked_ids(ids: Sequence[Hashable] | None, groups: int) -> tuple[Hashable, ...]:
    ids = tuple(range(groups)) if ids is None else tuple(ids)
    if len(ids) != groups:
        raise ValueError(f"{len(ids)} ids for {groups} groups; give one a prompt, or one for a pool")
    return ids


@contextmanager
def _released(denoiser: Denoiser) -> Iterator[None]:
    try:
        yield
    finally:
        getattr(denoiser, "release", lambda: None)()


@contextmanager
def _bar(progress: bool | Callable[..., Any], total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar's `update`, or a function that does nothing."""
    if progress is False:
        yield lambda rows: None
        return
    from tqdm.auto import tqdm

    make: Any = tqdm if progress is True else progress
    with make(total=total, unit="row") as bar:
        yield bar.update
