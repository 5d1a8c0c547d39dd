"""What one denoising step does: beams become children, children become survivors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from .contract import Beams, Method, Rng, Scores, map_tree, take, wide_dtype
from .engine import Engine
from .plan import Plan
from .rng import Sliced
from .selection import only_best_children

__all__ = ["Step", "advance", "children", "done", "drawn", "first", "in_turn", "narrow"]


class Step(NamedTuple):
    """What one denoising step did.

    Attributes:
        step: 0 for the first.
        alive: beams before it.
        width: children a beam; with a rollover budget, the most that there could have been.
        values: `[B, N]` of all candidates, -inf for those that were not drawn; None where nothing was scored.
    """

    step: int
    alive: int
    width: int
    values: Tensor | None


def first(engine: Engine, method: Method, lead: tuple[int, int], rng: Rng, asleep: Tensor | None = None) -> Beams:
    """Pure noise and what the network says of it; the groups `asleep [B]` are not drawn."""
    x = engine.denoiser.start(lead, rng)
    index = torch.arange(lead[1], device=x.device).repeat(lead[0], 1)
    group = torch.arange(lead[0], device=x.device)[:, None].expand(lead)
    prompt = index % len(engine.prompts) if method.pool else group
    if asleep is not None:
        prompt = torch.where(asleep[:, None], -1, prompt)
    nothing = torch.zeros(lead, dtype=wide_dtype(x.device), device=x.device)
    return Beams(
        x=x,
        pred=engine.shared(lambda own: engine.predict(x[:, own], prompt[:, own], 0), lead[1]),
        value=torch.full(lead, torch.nan, device=x.device),
        log_w=nothing,
        memory=method.potential.initial(lead, x.device),
        kl=nothing,
        prompt=prompt,
        child=index,
    )


def children(engine: Engine, beams: Beams, step: int, width: int, rng: Rng, drawn: Tensor | None = None) -> Beams:
    """Beams at level `step` -> their N children at the next, predicted; those not `drawn [B, N]` cost nothing."""
    denoiser = engine.denoiser
    noise = denoiser.noise(step, (*beams.prompt.shape, width), rng)
    # A parent meets its children by broadcasting, not by copies.
    x = denoiser.step(*map_tree(lambda leaf: leaf[:, :, None], (beams.x, beams.pred)), step, noise)  # [B, K, w, ...]
    del noise
    x = x.flatten(1, 2)
    light = _light(beams, width, drawn)
    return replace(light, x=x, pred=engine.predict(x, light.prompt, step + 1))


def _light(beams: Beams, width: int, drawn: Tensor | None) -> Beams:
    """What candidates have of their parents, `[B, N]`: all but the sample and its prediction, which are None."""
    kept = (beams.value, beams.log_w, beams.memory, beams.kl, beams.prompt)
    value, log_w, memory, kl, prompt = map_tree(lambda leaf: repeat(leaf, "b k ... -> b (k w) ...", w=width), kept)
    if drawn is not None:
        prompt = torch.where(drawn, prompt, -1)
    child = torch.arange(prompt.shape[1], device=prompt.device).repeat(len(prompt), 1)
    nothing: Any = None
    return Beams(nothing, nothing, value, log_w, memory, kl, prompt, child)


def advance(
    engine: Engine, method: Method, beams: Beams, i: int, plan: Plan, rng: Rng, drawn: Tensor | None = None
) -> tuple[Beams, Tensor | None]:
    """Step i of the plan: beams -> survivors, and the values `[B, N]` of all candidates (None where not scored).

    Where only the best child of a beam can survive, children are drawn and valued a few at a time and the others
    dropped; where several processes share a search, each draws and values its own. The noise, and so the result, is
    that of all at once.
    """
    lead, width = beams.prompt.shape, plan.width[i]
    n = lead[1] * width
    best = plan.score[i] and only_best_children(method.select)
    most = engine.block(lead[0]) if best else n
    parts = getattr(rng, "parts", None)
    if engine.share is None and (n <= most or parts is None):
        candidates = children(engine, beams, i, width, rng, drawn)
        values = method.value(candidates, i + 1, engine) if plan.score[i] else None
        return (candidates if values is None else narrow(candidates, values, method, plan, i, rng)), values
    noise, mine = Sliced(rng, n) if parts is None else parts(), engine.mine(n)
    held, said = list[Beams](), list[Tensor]()
    lively = [True] * n if drawn is None else drawn.any(dim=0).tolist()
    with engine.drawing(noise):
        for ks, js in _rectangles(mine, width, most):
            start, count = ks.start * width + js.start, (ks.stop - ks.start) * (js.stop - js.start)
            if not any(lively[start : start + count]):  # younger children of beams whose groups are all done
                said.append((said[-1] if said else beams.value).new_full((lead[0], count), -torch.inf))
                continue
            noise.at(start, count)
            some = None if drawn is None else drawn[:, start : start + count]
            part = children(engine, beams.take_slice(ks), i, js.stop - js.start, noise, some)
            part = replace(part, child=part.child + start)
            if plan.score[i]:
                said.append(method.value(part, i + 1, engine))
                if best:
                    part = _best_of_each_beam(part, said[-1], js.stop - js.start)
            if best and held and js.start > 0:  # more children of the same beam
                held[-1] = _where(part.value > held[-1].value, part, held[-1])
            else:
                held.append(part)
    return _chosen(engine, method, beams, i, plan, rng, drawn, held, said)


def _chosen(
    engine: Engine,
    method: Method,
    beams: Beams,
    i: int,
    plan: Plan,
    rng: Rng,
    drawn: Tensor | None,
    held: list[Beams],
    said: list[Tensor],
) -> tuple[Beams, Tensor | None]:
    """Of the candidates that are held here, and of the values said here: the survivors and values of all."""
    n = beams.prompt.shape[1] * plan.width[i]
    light = _light(beams, plan.width[i], drawn)
    values = None
    if plan.score[i]:
        own = torch.cat(said, dim=1) if said else beams.value.new_zeros(len(beams.value), 0)
        values = own if engine.share is None else engine.share.gather(own, n)
        light = narrow(light, values, method, plan, i, rng)
    if not held:  # more processes than candidates: the shape is what counts
        have = beams.take(torch.zeros_like(beams.child[:, :1]))
        have = replace(have, child=torch.full_like(have.child, -1))
    else:
        have = held[0].beside(*held[1:])
    # Where each survivor is among what is held: candidates are held in ascending order.
    place = torch.searchsorted(have.child.contiguous(), light.child.contiguous()).clamp(max=have.child.shape[1] - 1)
    heavy = take((have.x, have.pred), place)
    if engine.share is not None:
        heavy = engine.share.exchange(heavy, take(have.child, place) == light.child)
    return replace(light, x=heavy[0], pred=heavy[1]), values


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


def narrow(candidates: Beams, value: Tensor, method: Method, plan: Plan, i: int, rng: Rng) -> Beams:
    """Candidates and their values `[B, N]` -> the survivors of step i: weigh, choose, gather everything."""
    scores = _scores(candidates, value, i + 1, plan.width[i], plan.num_steps)
    increment, memory = method.potential(scores)
    scores = replace(scores, log_w=scores.log_w + increment, memory=memory)
    keep = min(plan.keep[i], value.shape[1])  # fewer where the rounds of a noise search ended early
    choice = method.select(scores, keep, rng)
    if choice.index.shape != (len(value), keep):
        raise ValueError(
            f"{method.name} chose {tuple(choice.index.shape)} candidates at step {i}, "
            f"but its plan keeps {(len(value), keep)}; its selector must return `keep` indices a group"
        )
    survivors = replace(candidates, value=value, memory=memory).take(choice.index)
    kl = survivors.kl + (torch.nan if choice.kl is None else choice.kl)
    return replace(survivors, log_w=choice.log_w, kl=kl)


def done(beams: Beams, target: float | None, stopped: Tensor | None) -> Tensor | None:
    """`[B]` the groups that search no further: their best value is at `target`, or they were stopped; None for none."""
    if target is None:
        return stopped
    reached = (beams.value >= target).any(dim=1)  # a value that was never asked is nan
    return reached if stopped is None else reached | stopped


def drawn(idle: Tensor | None, plan: Plan, i: int) -> Tensor | None:
    """`[B, N]` the children to draw at step i: in `idle [B]` groups one a beam; None for all."""
    if idle is None or plan.width[i] == 1 or plan.keep[i] > plan.alive[i]:
        return None
    searching = ~idle
    eldest = torch.arange(plan.rows[i], device=searching.device) % plan.width[i] == 0
    return searching[:, None] | eldest


class Drawn(NamedTuple):
    """What a step of a rollover budget came to: survivors, all values `[B, K reach]`, and the draws left `[B, K]`."""

    survivors: Beams
    values: Tensor
    left: Tensor


def in_turn(
    engine: Engine,
    method: Method,
    beams: Beams,
    step: int,
    left: Tensor,
    reach: int,
    rng: Rng,
    enough: Callable[[Scores], Tensor],
) -> Drawn:
    """One child after another of every beam, until one is `enough` or the beam's draws are `left [B, K]` no more.

    Beams that are done wait without cost for the others. `reach` bounds the draws of any beam.
    """
    lead, num_steps = beams.prompt.shape, engine.denoiser.num_steps
    values = torch.full((*lead, reach), -torch.inf, dtype=beams.value.dtype, device=left.device)
    done, best = torch.zeros(lead, dtype=torch.bool, device=left.device), beams
    for j in range(reach):
        drawing = (left > 0) & ~done
        if not drawing.any():
            break
        number = torch.arange(lead[1], device=left.device) * reach + j
        child = children(engine, beams, step, 1, rng.under(f"draw {j}"), drawing)
        child = replace(child, child=number.expand(lead))
        value = method.value(child, step + 1, engine)
        values = values.to(value.dtype)
        better = drawing & (value > values.amax(dim=-1)) if j else drawing
        values[..., j] = torch.where(drawing, value, -torch.inf)
        best = _where(better, replace(child, value=value), best)
        left = left - drawing.long()
        done = done | (drawing & enough(_scores(child, value, step + 1, 1, num_steps)))
    survivors = replace(best, kl=torch.full_like(best.kl, torch.nan))
    return Drawn(survivors, rearrange(values, "b k j -> b (k j)"), left)


def _scores(candidates: Beams, value: Tensor, step: int, width: int, num_steps: int) -> Scores:
    return Scores(value, candidates.value, candidates.log_w, candidates.memory, step, width, num_steps)


def _where(mask: Tensor, new: Beams, old: Beams) -> Beams:
    """Beam by beam the new one where `mask [B, K]`, else the old: every leaf, gathered alike."""
    k = mask.shape[1]
    own = torch.arange(k, device=mask.device)
    return new.beside(old).take(torch.where(mask, own, own + k))
