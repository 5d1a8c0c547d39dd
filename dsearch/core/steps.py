"""What steps are made of: beams become children, children get values, values make survivors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from .contract import Beams, Scores, map_tree, own, take, weight_dtype
from .engine import Engine
from .method import Method
from .plan import Plan
from .rng import move
from .watch import Watching

__all__ = ["children", "excursion", "finished", "first", "light", "narrow", "noised", "scores_of", "valued", "where"]


def first(engine: Engine, method: Method, batch_shape: tuple[int, int], asleep: Tensor | None = None) -> Beams:
    """Pure noise and what the network says of it; the groups `asleep [B]` are not drawn."""
    x = engine.denoiser.start(batch_shape, engine.rng)
    beam = torch.arange(batch_shape[1], device=x.device).repeat(batch_shape[0], 1)
    group = torch.arange(batch_shape[0], device=x.device)[:, None].expand(batch_shape)
    prompt_index = beam % len(engine.prompts) if method.pool else group
    if asleep is not None:
        engine.ragged = True
        prompt_index = torch.where(asleep[:, None], -1, prompt_index)
    nothing = torch.zeros(batch_shape, dtype=weight_dtype(x.device), device=x.device)
    return Beams(
        x=x,
        pred=engine.shared(lambda part: engine.predict(x[:, part], prompt_index[:, part], 0), batch_shape[1]),
        value=torch.full(batch_shape, torch.nan, dtype=torch.float32, device=x.device),
        log_w=nothing,
        memory=method.potential.initial(batch_shape, x.device),
        kl=nothing,
        prompt_index=prompt_index,
        child=beam,
    )


def children(engine: Engine, beams: Beams, step: int, width: int, drawn: Tensor | None = None) -> Beams:
    """Beams at level `step` -> their N children at the next, predicted; those not `drawn [B, N]` cost nothing."""
    denoiser = engine.denoiser
    noise = denoiser.noise(step, (*beams.prompt_index.shape, width), engine.rng)
    # x_{i+1} ~ p(. | x_i); a parent meets its children by broadcasting, not by copies.
    x = denoiser.step(*map_tree(lambda leaf: leaf[:, :, None], (beams.x, beams.pred)), step, noise)  # [B, K, w, ...]
    del noise
    x, those = x.flatten(1, 2), light(beams, width, drawn)
    engine.ragged |= drawn is not None
    return replace(those, x=x, pred=engine.predict(x, those.prompt_index, step + 1))


def noised(engine: Engine, beams: Beams, level: int, to: int, width: int, drawn: Tensor | None = None) -> Beams:
    """Beams at a level -> their N children at a noisier one, predicted; those not `drawn [B, N]` cost nothing."""
    denoiser, shape = engine.denoiser, (*beams.prompt_index.shape, 1)
    # Child by child: a sampler without noise of its own refuses children, which would be equal; these are not.
    noise = [denoiser.noise(to, shape, engine.rng.under(f"renoise {j}")) for j in range(width)]
    renoise: Callable[..., Tensor] = denoiser.renoise  # type: ignore[attr-defined]  # not all models have it
    x = renoise(beams.x[:, :, None], level, to, torch.cat(noise, dim=2)).flatten(1, 2)
    those = light(beams, width, drawn)
    engine.ragged |= drawn is not None
    return replace(those, x=x, pred=engine.predict(x, those.prompt_index, to))


def excursion(engine: Engine, beams: Beams, level: int, away: tuple[int, ...], drawn: Tensor | None = None) -> Beams:
    """Beams at a level -> their N children there, each noised to its level of `away` and come back by plain steps."""
    number = torch.arange(beams.prompt_index.shape[1], device=beams.x.device) * len(away)
    front: Beams | None = None
    if drawn is not None:  # where groups stop, of which each draws its first child alone
        leaves = torch.tensor([to < level for to in away], device=drawn.device).repeat(len(number))
        if not (drawn & leaves).any():
            away = (level,) * len(away)
    for at in range(min(away), level + 1):
        if front is not None:
            front = replace(children(engine, front, at - 1, 1), child=front.child)
        those = [c for c, to in enumerate(away) if to == at]
        if those:
            child = (number[:, None] + _index(those, number.device)).flatten()
            if at == level:
                left = beams.take((child // len(away)).expand(len(beams.x), -1))
            else:
                left = noised(engine, beams, level, at, len(those), None if drawn is None else drawn[:, child])
            left = replace(left, child=child.expand(len(beams.x), -1))
            front = left if front is None else front.beside(left)
    assert front is not None
    return front.take(front.child.argsort(dim=1))


def light(beams: Beams, width: int, drawn: Tensor | None) -> Beams:
    """What candidates have of their parents, `[B, N]`: all but the sample and its prediction, which are None."""
    kept = (beams.value, beams.log_w, beams.memory, beams.kl, beams.prompt_index)
    value, log_w, memory, kl, prompt_index = map_tree(
        lambda leaf: repeat(leaf, "b k ... -> b (k w) ...", w=width), kept
    )
    if drawn is not None:
        prompt_index = torch.where(drawn, prompt_index, -1)
    child = torch.arange(prompt_index.shape[1], device=prompt_index.device).repeat(len(prompt_index), 1)
    nothing: Any = None
    return Beams(nothing, nothing, value, log_w, memory, kl, prompt_index, child)


def valued(engine: Engine, method: Method, candidates: Beams, level: int, watching: Watching) -> Tensor:
    """What the method's value says of candidates at a level, `[B, N]`.

    Raises:
        ValueError: where it returns another shape.
    """
    values = method.value(engine.copied(candidates), level, engine).clone()
    if values.shape != candidates.prompt_index.shape:
        raise ValueError(
            f"the value of {method.name} returned shape {tuple(values.shape)} for candidates "
            f"{tuple(candidates.prompt_index.shape)} at level {level}; return one number per candidate"
        )
    watching.candidates(candidates, values, level, engine)
    return values


def finished(
    engine: Engine, method: Method, plan: Plan, i: int, clean: Beams, watching: Watching, before: Tensor | None = None
) -> tuple[Beams, Tensor, Tensor]:
    """Clean candidates -> the survivors, whose values are final rewards, their images, and the rewards of all.

    Those that rested in an excursion have their images from `before [B, K, ...]`, and their values.
    """
    away = plan.away(i)
    moved = [n for n in range(plan.rows[i]) if away is None or away[n % len(away)] < plan.levels[i]]
    if len(moved) == plan.rows[i]:
        images, rewards = engine.finish(clean.pred.x0, clean.prompt_index)
    else:
        assert before is not None
        at = _index(moved, clean.x.device)
        made, said = engine.finish(clean.pred.x0[:, at], clean.prompt_index[:, at])
        images = before.repeat_interleave(plan.width[i], dim=1).index_copy(1, at, made)
        rewards = clean.value.to(said.dtype).index_copy(1, at, said)
    watching.candidates(clean, rewards, plan.num_steps, engine, images)
    survivors = narrow(engine, method, plan, i, clean, rewards) if plan.score[i] else replace(clean, value=rewards)
    return survivors, take(images, survivors.child), rewards


def narrow(engine: Engine, method: Method, plan: Plan, i: int, candidates: Beams, values: Tensor) -> Beams:
    """Candidates and their values `[B, N]` -> the survivors of step i: weigh, choose, gather everything.

    Raises:
        ValueError: where the selector does not return as many as the plan keeps.
    """
    scores = scores_of(engine, candidates, values, plan.reached[i], plan.width[i])
    increment, memory = own(method.potential(own(scores)))
    scores = replace(scores, log_w=scores.log_w + increment, memory=memory)  # log w_{i+1} = log w_i + log G_{i+1}
    keep = min(plan.keep[i], values.shape[1])  # fewer where the rounds of a noise search ended early
    choice = own(method.select(own(scores), keep, engine.rng))
    if choice.index.shape != (len(values), keep):
        raise ValueError(
            f"{method.name} chose {tuple(choice.index.shape)} candidates at step {i}, "
            f"but its plan keeps {(len(values), keep)}; its selector must return `keep` indices per group"
        )
    survivors = replace(candidates, value=values, memory=memory).take(choice.index)
    kl = survivors.kl + (torch.nan if choice.kl is None else choice.kl)
    return replace(survivors, log_w=choice.log_w, kl=kl)


def _index(numbers: list[int], device: torch.device) -> Tensor:
    return move(torch.tensor(numbers, device="cpu"), device)


def scores_of(engine: Engine, candidates: Beams, values: Tensor, level: int, width: int) -> Scores:
    """What choosing may see of candidates and their values `[B, N]`."""
    drawn = candidates.prompt_index >= 0 if engine.ragged else None
    num_steps = engine.denoiser.num_steps
    return Scores(values, candidates.value, candidates.log_w, candidates.memory, level, width, num_steps, drawn)


def where(mask: Tensor, new: Beams, old: Beams) -> Beams:
    """Beam by beam the new one where `mask [B, K]`, else the old: every leaf, gathered alike."""
    k = mask.shape[1]
    here = torch.arange(k, device=mask.device)
    return new.beside(old).take(torch.where(mask, here, here + k))
