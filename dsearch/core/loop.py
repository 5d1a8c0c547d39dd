"""The one loop that runs every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .contract import Beams, Denoiser, Method, Reward, Rng, Share, take
from .engine import Chunks, Engine, SearchError
from .panel import Look, Panel, Watch
from .plan import Bill, Plan
from .result import Lineage, Result
from .rng import KeyedRng
from .steps import Step, advance, children, done, drawn, first, in_turn, narrow
from .thumbnails import Pictured, Shelf

__all__ = ["search"]


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
    pad: bool = False,
    target: float | None = None,
    keep_on_interrupt: bool = False,
    observe: Panel | Mapping[str, Reward] | None = None,
    thumbnails: int = 0,
    progress: bool | Callable[..., Any] = False,
    callback: Callback | None = None,
    share: Share | None = None,
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
        reward_chunk: images at once into the reward. Any of the three is halved where memory runs out, and what fitted
            is in `Result.chunks`.
        pad: fill chunks up with repeated rows, so that networks compiled by `torch.compile` see a single shape.
        target: a prompt whose best value has reached it draws one child a beam until it falls below; a noise search
            ends its rounds. What that saves is not spent.
        keep_on_interrupt: on a KeyboardInterrupt, return the best so far: of the rounds that are complete, or else the
            posterior means of the beams in progress, for a decode and a reward each and no further network row.
        observe: rewards by name that score the final images and never steer, or a `Panel` of them that also looks on
            the way. What they cost is counted apart.
        thumbnails: pixels of the small pictures to keep of all candidates at scored steps; each is decoded once more
            for it, which is counted as what watches is. 0 keeps none.
        progress: True for a bar over the planned network rows, or a tqdm-like class to make one.
        callback: called after each step with its `Step` and the surviving `Beams`; what it returns is ignored. A noise
            search reports the steps of each round, and the clean one once, for all rounds together.
        share: this process's part of the candidates, where several run one search together; `dsearch.distributed`
            makes it.

    Raises:
        ValueError: for prompts, ids or a plan that cannot be, before anything is spent.
        RewardError: where the reward raises, or returns nan or not one number an image.
        ModelError: where the network or the decoder returns nan or infinity, or one row does not fit into memory.
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
    if share is not None and method.enough is not None:
        raise ValueError(
            f"{method.name} draws one child after another, which {share.size} processes cannot share; "
            f"give it at least {share.size} prompts, so that each process has its own"
        )
    shelf = Shelf(thumbnails) if thumbnails else None
    if shelf is not None:
        if share is not None:
            raise ValueError(
                "thumbnails of one search on several processes are not gathered; take none, or one process"
            )
        if method.rounds is None:
            method = method._replace(value=Pictured(method.value, shelf))
    chunks = Chunks(chunk, decode_chunk, reward_chunk, pad)
    if target is not None and math.isnan(target):
        raise ValueError("target is nan; give a reward to reach")
    rounds = 1 if method.rounds is None else method.rounds.count
    if isinstance(observe, Mapping):
        observe = Panel(observe)
    watch = None if observe is None else Watch(observe)

    with _bar(progress, groups * planned.model_calls) as advance, _released(denoiser):
        engine = Engine(
            denoiser,
            method.reward,
            prompts,
            rng=rng,
            pool=method.pool,
            ragged=target is not None or method.enough is not None or bool(watch and watch.panel.patience),
            chunks=chunks,
            allowance=Bill().plus(planned, groups),
            advance=advance,
            share=share,
        )
        run = _Run(
            engine, method, plan.split(rounds), plan.keep[-1], groups, target, keep_on_interrupt, callback, watch
        )
        parts, complete = _rounds(run, rng)
        found = _merged(parts)
        beams = found.beams
        if found.clean:
            if shelf is not None:
                everyone = torch.arange(found.images.shape[1]).expand(found.images.shape[:2])
                shelf.put(num_steps, everyone, shelf.small(found.images.flatten(0, 1)).unflatten(0, everyone.shape))
            if plan.score[-1]:
                beams = narrow(beams, found.rewards, method, plan, num_steps - 1, rng)
            found.lineage.append(beams.child)
            if callback is not None:
                callback(found.trace[-1], beams)
        rewards = take(found.rewards, beams.child)
        order = rewards.argsort(dim=-1, descending=True, stable=True)
        beams, rewards = beams.take(order), take(rewards, order)
        images = take(found.images, beams.child)
        texts = [[prompts[p] for p in group] for group in beams.prompt.tolist()]
        if watch is not None:
            said = {name: engine.observe_images(name, r, images, texts) for name, r in watch.panel.rewards.items()}
            watch.looks.append(Look(num_steps, rewards, said))
        engine.settle()
        spent = engine.spent if share is None else share.total(engine.spent)

    unknown = method.rounds is not None and not method.rounds.independent
    return Result(
        images=images,
        rewards=rewards,
        latents=beams.x,
        prompts=texts,
        log_w=beams.log_w,
        trace=found.trace,
        lineage=Lineage(tuple(found.lineage), tuple(step.width for step in found.trace), order),
        kl=None if unknown or beams.kl.isnan().any() else beams.kl,
        bill=Bill(*(-(-unit // groups) for unit in spent)),
        spent=spent,
        planned=planned,
        plan=plan,
        complete=complete,
        looks=[] if watch is None else watch.looks,
        watched=engine.watched,
        chunks=engine.sizes(),
        thumbnails=[] if shelf is None else [shelf.of(s.step + 1, s.alive * s.width) for s in found.trace],
    )


class _Run(NamedTuple):
    """What all rounds of a search share."""

    engine: Engine
    method: Method
    plan: Plan  # of one round
    keep: int  # of all rounds together
    groups: int
    target: float | None
    keep_on_interrupt: bool
    callback: Callback | None
    watch: Watch | None


class _Found(NamedTuple):
    """What a run from x_T to the clean end found: its candidates there, all of them, and how it came to them."""

    beams: Beams
    images: Tensor
    rewards: Tensor
    trace: list[Step]
    lineage: list[Tensor]  # of all steps but the last, whose choice is still to come
    clean: bool = True  # or else cut short, with nothing left to choose


def _rounds(run: _Run, rng: Rng) -> tuple[list[_Found], bool]:
    """Runs of the plan one after another, each with noise of its own, and whether none was interrupted."""
    if run.method.rounds is None:
        found = _descend(run, rng)
        return [found], found.clean
    source, rounds = run.method.rounds.source(rng), list[_Found]()
    asleep: Tensor | None = None
    for _ in range(run.method.rounds.count):
        run.engine.rng = source.next(rounds[-1].rewards if rounds else None)
        if run.watch is not None:
            run.watch.restart()
        try:
            # A round that is cut short is worth less than those before it, so only the first tries to save it.
            keep = run.keep_on_interrupt and not rounds
            rounds.append(_descend(run._replace(keep_on_interrupt=keep), run.engine.rng, asleep))
        except KeyboardInterrupt:
            if not (run.keep_on_interrupt and rounds):
                raise
            return rounds, False
        if not rounds[-1].clean:
            return rounds, False
        if run.target is not None:
            reached = (rounds[-1].rewards >= run.target).any(dim=1)
            asleep = reached if asleep is None else asleep | reached
            if asleep.all():
                break
    return rounds, True


def _descend(run: _Run, rng: Rng, asleep: Tensor | None = None) -> _Found:
    """One run of the plan, from x_T to its clean candidates."""
    engine, method, plan = run.engine, run.method, run.plan
    beams = first(engine, method, (run.groups, plan.start), rng, asleep)
    left = torch.zeros_like(beams.prompt)
    trace, lineage, saved = list[Step](), list[Tensor](), None

    def idle(beams: Beams) -> Tensor | None:
        return done(beams, run.target, None if run.watch is None else run.watch.stopped)

    try:
        for i in range(plan.num_steps - 1):
            if method.enough and plan.score[i]:
                beams, step, left = _in_turn(run, beams, i, left, rng)
            else:
                beams, values = advance(engine, method, beams, i, plan, rng, drawn(idle(beams), plan, i))
                step = Step(i, plan.alive[i], plan.width[i], values)
            trace.append(step)
            lineage.append(beams.child)
            saved = i + 1, beams
            if run.watch is not None:
                run.watch.look(beams, i + 1, engine)
            if run.callback is not None:
                run.callback(step, beams)
        i = plan.num_steps - 1
        clean = children(engine, beams, i, plan.width[i], rng, drawn(idle(beams), plan, i))
        images, rewards = engine.finish(clean.pred.x0, clean.prompt)
        trace.append(Step(i, plan.alive[i], plan.width[i], rewards))
    except SearchError as error:
        if saved is not None:
            error.reached, error.beams = saved
        raise
    except KeyboardInterrupt:
        if not run.keep_on_interrupt or saved is None:
            raise
        return _cut_short(run, *saved, trace, lineage)
    return _Found(clean, images, rewards, trace, lineage)


def _in_turn(run: _Run, beams: Beams, i: int, left: Tensor, rng: Rng) -> tuple[Beams, Step, Tensor]:
    """A step of a rollover budget: its own width is added to what is left of earlier ones."""
    method, plan = run.method, run.plan
    assert method.enough is not None
    left = left + plan.width[i]
    reach = 1 + sum(w - 1 for w, scored in zip(plan.width[: i + 1], plan.score, strict=False) if scored)
    idle = done(beams, run.target, None if run.watch is None else run.watch.stopped)
    allowed = left if idle is None else torch.where(idle[:, None], 1, left)
    came = in_turn(run.engine, method, beams, i, allowed, reach, rng, method.enough)
    return came.survivors, Step(i, plan.alive[i], reach, came.values), left - allowed + came.left


def _cut_short(run: _Run, steps: int, beams: Beams, trace: list[Step], lineage: list[Tensor]) -> _Found:
    """The posterior means of the best of the beams in progress: as many as the plan would have returned."""
    keep = min(run.keep, beams.prompt.shape[1])
    ranked = beams.value.nan_to_num(nan=-torch.inf).argsort(dim=-1, descending=True, stable=True)
    beams = beams.take(ranked[:, :keep].sort(dim=-1).values)
    x0 = beams.pred.x0
    run.engine.allow(Bill(0, beams.prompt.numel(), beams.prompt.numel()))
    images, rewards = run.engine.finish(x0, beams.prompt)
    lineage = [*lineage[: steps - 1], beams.child]
    own = torch.arange(keep, device=x0.device).expand_as(beams.child)  # rows of `images`, no candidates of a step
    return _Found(replace(beams, x=x0, child=own), images, rewards, trace[:steps], lineage, clean=False)


def _merged(rounds: list[_Found]) -> _Found:
    """The candidates of all rounds as those of one run with that many more beams."""
    one, k = rounds[0], len(rounds)
    if k == 1:
        return one

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), dim=1)

    def renumbered(parts: Sequence[Tensor], n: int) -> Tensor:
        return joined([child + r * n for r, child in enumerate(parts)])

    steps = list(zip(*(found.trace for found in rounds), strict=True))
    rows = [s.alive * s.width for s in one.trace]
    beams = one.beams.beside(*(found.beams for found in rounds[1:]))
    return _Found(
        replace(beams, child=renumbered([found.beams.child for found in rounds], rows[-1])),
        joined([found.images for found in rounds]),
        joined([found.rewards for found in rounds]),
        [
            Step(s[0].step, k * s[0].alive, s[0].width, None if s[0].values is None else joined([t.values for t in s]))
            for s in steps
        ],
        [renumbered(parts, n) for parts, n in zip(zip(*(f.lineage for f in rounds), strict=True), rows, strict=False)],
    )


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
