"""One step of a plan: all children of all beams at once, or, with the same result, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from .contract import Beams, Step, take
from .engine import Engine
from .method import Method
from .plan import Plan
from .selection import only_best_children
from .steps import children, excursion, finished, light, narrow, noised, valued, where
from .watch import Watching

__all__ = ["expand", "go_back", "step_done"]


def expand(
    engine: Engine, method: Method, plan: Plan, i: int, beams: Beams, watching: Watching, stop: Tensor | None
) -> tuple[Beams, Step, Tensor | None]:
    """Step i of the plan: beams at a level -> survivors at the next, what happened, and at the end their images.

    The groups that `stop [B]` draw one child per beam. Where only the best child of a beam can survive, children are
    drawn and valued a few at a time and the others dropped; where several processes share a search, each draws and
    values its own. The noise, and so the result, is that of all at once.
    """
    drawn, level, width = _eldest(stop, plan, i), plan.levels[i], plan.width[i]
    if plan.reached[i] == plan.num_steps:
        clean = children(engine, beams, level, width, drawn)
        survivors, images, rewards = finished(engine, method, plan, i, clean, watching)
        return survivors, step_done(plan, i, rewards), images
    best = plan.score[i] and only_best_children(method.select)
    if engine.share is not None or (best and plan.rows[i] > engine.block(len(beams.prompt_index))):
        survivors, values = _in_parts(engine, method, plan, i, beams, watching, drawn, best)
    else:
        survivors, values = _judged(engine, method, plan, i, children(engine, beams, level, width, drawn), watching)
    return survivors, step_done(plan, i, values), None


def go_back(
    engine: Engine,
    method: Method,
    plan: Plan,
    i: int,
    beams: Beams,
    watching: Watching,
    stop: Tensor | None,
    images: Tensor | None,
) -> tuple[Beams, Step, Tensor | None]:
    """Step i of the plan, a move back in noise or an excursion; `images [B, K, ...]` are the beams' where clean."""
    drawn, level, away = _eldest(stop, plan, i), plan.levels[i], plan.away(i)
    if away is None:
        made = noised(engine, beams, level, plan.reached[i], plan.width[i], drawn)
    else:
        made = excursion(engine, beams, level, away, drawn)
    if plan.reached[i] == plan.num_steps:
        survivors, images, rewards = finished(engine, method, plan, i, made, watching, images)
        return survivors, step_done(plan, i, rewards), images
    survivors, values = _judged(engine, method, plan, i, made, watching)
    return survivors, step_done(plan, i, values), None


def _judged(
    engine: Engine, method: Method, plan: Plan, i: int, candidates: Beams, watching: Watching
) -> tuple[Beams, Tensor | None]:
    """Candidates at a noisy level -> the survivors of step i and the values of all; all, where it does not score."""
    if not plan.score[i]:
        return candidates, None
    values = valued(engine, method, candidates, plan.reached[i], watching)
    return narrow(engine, method, plan, i, candidates, values), values


def step_done(plan: Plan, i: int, values: Tensor | None) -> Step:
    """What step i of the plan did, with the values `[B, N]` of its candidates."""
    reached = None if plan.route is None else plan.reached[i]
    return Step(i, plan.alive[i], plan.width[i], values, reached)


def _eldest(stop: Tensor | None, plan: Plan, i: int) -> Tensor | None:
    """`[B, N]` the children to draw at step i: in groups that `stop [B]` one per beam; None for all."""
    if stop is None or plan.width[i] == 1 or plan.keep[i] > plan.alive[i]:
        return None
    eldest = torch.arange(plan.rows[i], device=stop.device) % plan.width[i] == 0
    return ~stop[:, None] | eldest


def _in_parts(
    engine: Engine,
    method: Method,
    plan: Plan,
    i: int,
    beams: Beams,
    watching: Watching,
    drawn: Tensor | None,
    best: bool,
) -> tuple[Beams, Tensor | None]:
    """This process's candidates, a few at a time; of each beam the best so far is held."""
    n, width = plan.rows[i], plan.width[i]
    most = engine.block(len(beams.prompt_index)) if best else n
    noise, held, said = engine.rng.parts(n), list[Beams](), list[Tensor]()
    some_group = [True] * n if drawn is None else drawn.any(dim=0).tolist()  # draws this candidate
    with engine.drawing(noise):
        for ks, js in _rectangles(engine.mine(n), width, most):
            start, count = ks.start * width + js.start, len(ks) * len(js)
            noise.seek(start, count)
            if not any(some_group[start : start + count]):
                said.append(beams.value.new_full((len(beams.value), count), -torch.inf))
                continue
            some = None if drawn is None else drawn[:, start : start + count]
            part = children(engine, beams.take_slice(ks), plan.levels[i], len(js), some)
            part = replace(part, child=part.child + start)
            if plan.score[i]:
                said.append(valued(engine, method, part, plan.reached[i], watching))
                if best:
                    part = _best_of_each_beam(part, said[-1], len(js))
            if best and held and js.start > 0:  # more children of the same beam
                held[-1] = where(part.value > held[-1].value, part, held[-1])
            else:
                held.append(part)
    return _chosen(engine, method, plan, i, beams, drawn, held, said)


def _chosen(
    engine: Engine,
    method: Method,
    plan: Plan,
    i: int,
    beams: Beams,
    drawn: Tensor | None,
    held: list[Beams],
    said: list[Tensor],
) -> tuple[Beams, Tensor | None]:
    """Of the candidates that are held here, and of the values said here: the survivors and values of all."""
    survivors, values = light(beams, plan.width[i], drawn), None
    if plan.score[i]:
        here = torch.cat(said, dim=1) if said else beams.value.new_zeros(len(beams.value), 0)
        values = here if engine.share is None else engine.share.gather(here, plan.rows[i])
        survivors = narrow(engine, method, plan, i, survivors, values)
    if held:
        have = held[0].beside(*held[1:])
    else:  # more processes than candidates: the shape is what counts
        have = beams.take(torch.zeros_like(beams.child[:, :1]))
        have = replace(have, child=torch.full_like(have.child, -1))
    # Where each survivor is among what is held: candidates are held in ascending order.
    place = torch.searchsorted(have.child.contiguous(), survivors.child.contiguous()).clamp(max=have.child.shape[1] - 1)
    x, pred = take((have.x, have.pred), place)
    if engine.share is not None:
        x, pred = engine.share.exchange((x, pred), take(have.child, place) == survivors.child)
    return replace(survivors, x=x, pred=pred), values


def _rectangles(own: range, width: int, most: int) -> Iterator[tuple[range, range]]:
    """The candidates of a range as beams by children, in order: whole beams or some children of one, `most` at once."""
    at = own.start
    while at < own.stop:
        beam, child = divmod(at, width)
        if child == 0 and width <= most and at + width <= own.stop:
            left = (own.stop - at) // width
            count = -(-left // -(-left // (most // width)))
            yield range(beam, beam + count), range(width)
            at += count * width
        else:
            left = min(width - child, own.stop - at)
            count = -(-left // -(-left // most))
            yield range(beam, beam + 1), range(child, child + count)
            at += count


def _best_of_each_beam(candidates: Beams, value: Tensor, width: int) -> Beams:
    """`[B, k w]` -> `[B, k]`, the lowest index of equals, with its value."""
    best = rearrange(value, "b (k w) -> b k w", w=width).argmax(dim=-1)
    return replace(candidates, value=value).take(torch.arange(best.shape[1], device=best.device) * width + best)
