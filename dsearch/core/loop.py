"""The one loop that runs every method."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .chunks import Chunks
from .contract import Beams, Denoiser, Rng, Step, take
from .engine import Engine, Share
from .errors import Interrupted, SearchError
from .expand import expand, go_back
from .grow import Grown, grow
from .meter import Meter
from .method import Method
from .plan import Bill, Plan
from .result import Cost, Lineage, Result
from .rng import KeyedRng
from .steps import first, narrow, where
from .tournament import Tournament
from .watch import HeldOut, Watcher, Watching

__all__ = ["Watch", "search"]

Watch = Watcher | HeldOut | Callable[[Step, Beams], object]
"""What may watch a search: a target, held-out rewards, thumbnails, a `Watcher` or a function `(step, beams)`."""


@torch.no_grad()
def search(
    denoiser: Denoiser,
    method: Method,
    prompts: str | Sequence[str],
    *,
    seed: int = 0,
    ids: Sequence[Hashable] | None = None,
    rng: Rng | None = None,
    chunks: Chunks = Chunks(),  # noqa: B008  # frozen
    watch: Sequence[Watch] = (),
    progress: bool | Callable[..., Any] = False,
    share: Share | None = None,
    final: Tournament | None = None,
) -> Result:
    """Sample every prompt with the method and return the survivors, best first.

    Args:
        denoiser: the model, for instance `dsearch.adapters.StableDiffusion(pipe)`.
        method: for instance `dsearch.methods.dsearch(reward, beams=5, rows_per_step=25)`.
        prompts: one group each. Beams of different prompts never compete, unless the method pools them.
        seed: with the same ids, the same seed gives the same result.
        ids: one per prompt, its position by default: what names a prompt's noise. Give ids of your own, and a prompt
            meets the same noise in any batch.
        rng: a noise source instead of (seed, ids); recorded noise, say.
        chunks: rows at once through the networks and the reward. They do not change the noise.
        watch: what watches: `Target(0.8)` ends the search of prompts that are good enough, `HeldOut({"clip": reward})`
            scores without steering, `Thumbnails(32)` keeps small pictures of all candidates, a function is called with
            each `Step` and the surviving `Beams`. A noise search tells them of each of its rounds.
        progress: True for a bar over the planned network rows, or a tqdm-like class to make one.
        share: this process's part of the candidates, where several run one search together; `dsearch.distributed`
            makes it.
        final: how the survivors are ranked at the end, `tournament(judge)` say, in the place of the method's own way;
            by default by their rewards. Its comparisons are in the bill.

    Raises:
        ValueError: for prompts, ids or a plan that cannot be, before anything is spent.
        RewardError: where the reward raises, or returns nan or not one number per image.
        ModelError: where the network or the decoder returns nan or infinity, or one row does not fit into memory.
        Interrupted: on a KeyboardInterrupt after the first step, with the survivors so far.
    """
    prompts = _checked(prompts)
    method = method if final is None else replace(method, final=final)
    plan, groups = _planned(method, denoiser.num_steps, len(prompts))
    planned = method.bill(plan.num_steps)
    rng, watching = _source(rng, seed, ids, groups), Watching((*method.watch, *watch))
    if method.program is not None:
        _refuse_tree(method, rng, share, watching)
    if plan.route is not None or (method.program is not None and method.program.goes_back):
        _refuse_return(denoiser, method, plan, share)
    if share is not None and (method.expand is not None or watching.sees_candidates):
        who = (
            f"{method.name} draws one child after another" if method.expand else "what watches candidates sees its own"
        )
        raise ValueError(
            f"{who}, which {share.size} processes cannot share; give at least {share.size} prompts, so that each "
            "process has its own, or one process"
        )
    with _bar(progress, groups * planned.model_calls) as told, _released(denoiser):
        meter = Meter(Bill().plus(planned, groups), told)
        engine = Engine(
            denoiser,
            method.reward,
            prompts,
            rng=rng,
            pool=method.pool or method.program is not None,
            chunks=chunks,
            meter=meter,
            share=share,
        )
        run = _way(method)(engine, method, plan, groups, watching)
        order = run.beams.value.argsort(dim=-1, descending=True, stable=True)
        beams, images = run.beams.take(order), take(run.images, order)
        texts = [[prompts[p] for p in group] for group in beams.prompt_index.tolist()]
        outcome = None if method.final is None else engine.judged(method.final, images, beams, texts)
        if outcome is not None:
            ranked = outcome.order.to(order.device)
            beams, images, order = beams.take(ranked), take(images, ranked), take(order, ranked)
        watching.end(images, beams.value, texts, engine)
        engine.settle()
        spent = meter.spent if share is None else share.total(meter.spent)
    return Result(
        images=images,
        rewards=beams.value,
        latents=beams.x,
        prompts=texts,
        log_w=beams.log_w,
        kl=None if beams.kl.isnan().any() else beams.kl,
        trace=run.trace,
        lineage=Lineage(
            tuple(run.lineage),
            tuple(step.width for step in run.trace),
            take(run.beams.child, order) if isinstance(run, Grown) else order,
            tuple(run.parent) if isinstance(run, Grown) else None,
        ),
        plan=plan,
        cost=Cost(planned, spent, meter.watched, groups),
        chunks=engine.chunks,
        looks=watching.looks,
        thumbnails=watching.thumbnails(run.trace),
        final=outcome,
    )


@dataclass(frozen=True)
class Descent:
    """What a run from x_T to the clean end came to.

    Attributes:
        beams: the clean survivors, whose values are final rewards.
        images: `[B, K, ...]` theirs.
        trace: one `Step` per denoising step.
        lineage: for each step `[B, K_i]`, which of its candidates survived.
        stop: `[B]` the groups that search no further; None for none.
    """

    beams: Beams
    images: Tensor
    trace: list[Step]
    lineage: list[Tensor]
    stop: Tensor | None


def descend(
    engine: Engine, method: Method, plan: Plan, groups: int, watching: Watching, asleep: Tensor | None = None
) -> Descent:
    """The loop: one run of the plan, from x_T to its clean survivors; groups that are `asleep [B]` are not drawn."""
    step_of = method.expand or expand
    beams, stop, images = first(engine, method, (groups, plan.start), asleep), None, None
    trace, lineage, answers = list[Step](), list[Tensor](), Answers()
    last = plan.num_moves - 1
    try:
        for i, leg in enumerate(plan.legs):
            with engine.drawing(engine.rng.under(f"leg {leg}") if leg else engine.rng):
                if plan.goes_back(i):
                    beams = answers.asleep(beams, engine)
                    beams, step, images = go_back(engine, method, plan, i, beams, watching, stop, images)
                else:
                    beams, step, images = step_of(engine, method, plan, i, beams, watching, stop)
            if images is not None:
                beams, images = answers.instead(beams, images)
            trace.append(step)
            lineage.append(beams.child)
            stop = watching.stopped(step, beams, engine)
            if images is not None and stop is not None and i < last:
                if answers.found(stop, beams, images):
                    break
                stop = None
    except SearchError as error:
        if trace:
            error.beams, error.reached = beams, trace[-1].level
        raise
    except KeyboardInterrupt as error:
        if trace:
            raise Interrupted(beams, trace[-1].level) from error
        raise
    assert images is not None
    return Descent(beams, images, trace, lineage, stop)


class Answers:
    """What groups end with that a watcher stopped at a clean end before the last: they go back no more."""

    def __init__(self) -> None:
        self._done: Tensor | None = None
        self._held: tuple[Beams, Tensor] | None = None

    def found(self, stop: Tensor, beams: Beams, images: Tensor) -> bool:
        """The groups that `stop [B]` end with these; whether that is all groups. It waits for the device."""
        done = stop if self._done is None else self._done | stop
        every, some = torch.stack([done.all(), done.any()]).tolist()
        if some:
            self._done, self._held = done, (beams, images)
        return bool(every)

    def asleep(self, beams: Beams, engine: Engine) -> Beams:
        """Beams that are about to go back: those of groups that are done draw and cost nothing."""
        if self._done is None:
            return beams
        engine.ragged = True
        return replace(beams, prompt_index=torch.where(self._done[:, None], -1, beams.prompt_index))

    def instead(self, beams: Beams, images: Tensor) -> tuple[Beams, Tensor]:
        """Clean beams and their images `[B, K, ...]`, where a group is done those that it ended with."""
        if self._done is None or self._held is None:
            return beams, images
        old, shown = self._held
        new = ~self._done[:, None].expand_as(beams.child)
        beams = replace(where(new, beams, old), child=beams.child)
        return beams, torch.where(self._done.view(-1, *[1] * (images.ndim - 1)), shown, images)


def _rounds(engine: Engine, method: Method, plan: Plan, groups: int, watching: Watching) -> Descent:
    """Runs of equal parts of the plan one after another, each with noise of its own; the best of all survive."""
    assert method.rounds is not None
    source, runs, asleep = method.rounds.source(engine.rng), list[Descent](), None
    part = plan.split(method.rounds.count)
    for _ in range(method.rounds.count):
        with engine.drawing(source.next(runs[-1].beams.value if runs else None)):
            runs.append(descend(engine, method, part, groups, watching, asleep))
        getattr(source, "ran", lambda *told: None)(runs[-1].beams, runs[-1].lineage)
        stop = runs[-1].stop
        asleep = stop if asleep is None or stop is None else asleep | stop
        if asleep is not None and asleep.all():
            break
    run = _beside(runs)
    index = torch.arange(run.beams.value.shape[1], device=run.beams.x.device).expand_as(run.beams.value)
    best = narrow(engine, method, plan, plan.num_moves - 1, replace(run.beams, child=index), run.beams.value)
    child, images = take(run.beams.child, best.child), take(run.images, best.child)
    if asleep is not None or not method.rounds.independent:  # how many rounds there are then depends on the rewards
        best = replace(best, kl=torch.full_like(best.kl, torch.nan))
    return replace(run, beams=replace(best, child=child), images=images, lineage=[*run.lineage[:-1], child])


def _beside(runs: list[Descent]) -> Descent:
    """The survivors of all runs as those of one run with that many more beams."""
    rows = [step.alive * step.width for step in runs[0].trace]

    def joined(parts: Sequence[Tensor], n: int = 0) -> Tensor:
        """Candidates of all runs; where they are numbers, those of run r are moved by r n."""
        return torch.cat([part + r * n if n else part for r, part in enumerate(parts)], dim=1)

    def step(parts: Sequence[Step]) -> Step:
        values = [one.values for one in parts if one.values is not None]
        return replace(parts[0], alive=len(runs) * parts[0].alive, values=joined(values) if values else None)

    lineage = [
        joined(parts, n) for parts, n in zip(zip(*(run.lineage for run in runs), strict=True), rows, strict=True)
    ]
    return Descent(
        replace(runs[0].beams.beside(*(run.beams for run in runs[1:])), child=lineage[-1]),
        joined([run.images for run in runs]),
        [step(parts) for parts in zip(*(run.trace for run in runs), strict=True)],
        lineage,
        None,
    )


def _way(method: Method) -> Callable[[Engine, Method, Plan, int, Watching], Descent | Grown]:
    if method.program is not None:
        return grow
    return descend if method.rounds is None else _rounds


def _refuse_tree(method: Method, rng: Rng, share: Share | None, watching: Watching) -> None:
    """What a search that decides as it goes cannot have.

    Raises:
        ValueError: for it, before anything is spent.
    """
    if not isinstance(rng, KeyedRng):
        raise ValueError(f"{method.name} draws its noise node by node; give seed and ids, not rng")
    if share is not None:
        raise ValueError(
            f"{method.name} decides as it goes, which {share.size} processes cannot share; give at least {share.size} "
            "prompts, so that each process has its own, or one process"
        )
    if watching.sees_survivors:
        raise ValueError(
            f"{method.name} takes no step with all its beams, so that a target, a function and held-out looks on the "
            "way have nothing to watch; HeldOut(rewards) and Thumbnails see its end and its nodes"
        )


def _checked(prompts: str | Sequence[str]) -> list[str]:
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ValueError("no prompts; pass at least one (the empty string is a prompt)")
    return prompts


def _planned(method: Method, num_steps: int, prompts: int) -> tuple[Plan, int]:
    """The plan, and in how many groups it is run."""
    plan = method.plan(num_steps)
    if plan.num_steps != num_steps:
        raise ValueError(f"the plan of {method.name} has {plan.num_steps} steps, but the model takes {num_steps}")
    if method.pool and plan.start < prompts:
        raise ValueError(f"{plan.start} pooled beams cannot carry {prompts} prompts; start more or pass fewer")
    method.refuse_final(plan, prompts)
    return plan, 1 if method.pool else prompts


def _refuse_return(denoiser: Denoiser, method: Method, plan: Plan, share: Share | None) -> None:
    """Noises a sample again, of which nothing is spent: what a model cannot do is said before anything is.

    Raises:
        TypeError: for a model that has no `renoise`.
        ValueError: where several processes share the search; whatever the model's `renoise` refuses.
    """
    if not hasattr(denoiser, "renoise"):
        raise TypeError(
            f"{method.name} goes back in noise, and {type(denoiser).__name__} has no renoise(x, level, to, noise); "
            "give it one, or take another method"
        )
    if share is not None:
        raise ValueError(
            f"{method.name} goes back in noise, which {share.size} processes cannot share; give at least {share.size} "
            "prompts, so that each process has its own, or one process"
        )
    rng = KeyedRng(0, (0,))
    x, noise = denoiser.start((1, 1), rng), denoiser.noise(0, (1, 1, 1), rng)
    denoiser.renoise(x[:, :, None], plan.num_steps, 0, noise)


def _source(rng: Rng | None, seed: int, ids: Sequence[Hashable] | None, groups: int) -> Rng:
    if rng is not None:
        if ids is not None:
            raise ValueError("ids name the noise of the default source; give ids or rng, not both")
        return rng
    ids = tuple(range(groups)) if ids is None else tuple(ids)
    if len(ids) != groups:
        raise ValueError(f"{len(ids)} ids for {groups} groups; give one per prompt, or one for a pool")
    return KeyedRng(seed, ids)


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
