"""The published image script's way of searching, in plain words: the oracle of `methods.published`, and a baseline.

One pool of beams; children made one at a time in a Python loop, each brought to the host; the winner's prediction
thrown away and computed again. It shares no line with the loop, its plans or its selectors. It takes a model by its
functions, and its coins, noise and draws from outside, so that the same chances must lead to the same choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Flags:
    """The script's flags, under its names but for the spelling of the schedules."""

    bs: int = 12
    duplicate_size: int = 5
    w: int = 1
    oversamplerate: int = 1
    search_schedule: str = "all"
    drop_schedule: str = "none"
    replacerate: float = 0.0

    @property
    def beams(self) -> int:
        return self.bs * self.oversamplerate


@dataclass
class Record:
    """What a run did and what it cost."""

    latents: Tensor | None = None
    images: Tensor | None = None
    rewards: list[float] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    chosen: list[list[int]] = field(default_factory=list)  # at each step, beam * children + child, in beam order
    rows: int = 0  # through the network, the recomputed ones included
    recomputed: int = 0
    decodes: int = 0
    reward_calls: int = 0


def searches(kind: str, i: int, n: int, coin: float) -> bool:
    """Whether step i of n + 1 is one of those that search."""
    if kind == "all":
        return True
    if kind == "uniform":
        return coin < 0.7
    if kind == "linear":
        return coin < min(1.0, (i + 10) / n)
    if kind == "exponential":
        return coin < 1 - math.exp(-3 * i / n)
    raise KeyError(kind)


def beams_left(kind: str, i: int, n: int, start: int, end: int) -> int:
    """Beams that step i of n + 1 leaves."""
    if kind == "none":  # the script's list of sizes is then `bs` throughout, whatever the oversampling
        return end
    if kind == "exponential":
        left = start * (end / start) ** (i / n)
    elif kind == "linear":
        left = start - i * (start - end) / n
    elif kind == "quadratic":
        left = end + (start - end) * (1 - i / n) ** 2
    elif kind == "sigmoid":
        left = start / (1 + math.exp(-10 * ((n - 1 - i) / n - 0.5)))
    else:
        raise KeyError(kind)
    return max(end, int(left))


@torch.no_grad()
def run(
    model: Any,
    reward: Callable[[Tensor, list[str]], Tensor],
    prompts: list[str],
    flags: Flags,
    coins: Sequence[float],
    rng: Any,
) -> Record:
    """Search as the script does; `coins` has one uniform for each step but the last."""
    record, n = Record(), model.num_steps - 1
    cond = model.encode(prompts)
    x = model.start((1, flags.beams), rng)[0]
    owner = [k % len(prompts) for k in range(flags.beams)]

    for i in range(n):
        out = _predict(model, x, i, cond, owner, record)
        record.recomputed += len(x) if i else 0
        children = flags.duplicate_size
        if searches(flags.search_schedule, i, n, coins[i]):
            children = int(flags.duplicate_size * flags.w * max(1, flags.beams / len(x)))
        noise = model.noise(i, (1, len(x), children), rng)[0]
        latents, scores = [], []
        for c in range(children):
            child = _step(model, x, out, i, noise[:, c])
            guess = _predict(model, child, i + 1, cond, owner, record)
            scores.append(_score(model, reward, guess.x0, [prompts[p] for p in owner], record)[1])
            latents.append(child.cpu())
        child_of = [_first_best([score[k] for score in scores]) for k in range(len(x))]
        value = [scores[c][k] for k, c in enumerate(child_of)]
        best = [latents[c][k] for k, c in enumerate(child_of)]
        kept = _prune(value, beams_left(flags.drop_schedule, i, n, flags.beams, flags.bs))
        if flags.replacerate:
            kept = _replace(value, math.floor(flags.replacerate * len(value)), i + 1, rng)
        record.chosen.append([k * children + child_of[k] for k in kept])
        owner = [owner[k] for k in kept]
        x = torch.stack([best[k] for k in kept]).to(x.device)

    out = _predict(model, x, n, cond, owner, record)
    record.recomputed += len(x) if n else 0
    x = _step(model, x, out, n, model.noise(n, (1, len(x), 1), rng)[0, :, 0])
    record.chosen.append(list(range(len(x))))
    record.latents, record.prompts = x, [prompts[p] for p in owner]
    record.images, record.rewards = _score(model, reward, x, record.prompts, record)
    return record


def _predict(model: Any, x: Tensor, step: int, cond: Any, owner: list[int], record: Record) -> Any:
    record.rows += len(x)
    return model.predict(x, step, cond, torch.tensor(owner, device=x.device))


def _step(model: Any, x: Tensor, pred: Any, i: int, noise: Tensor) -> Tensor:
    """One child of each beam: `[K, ...]` and `[K, ...]` noise -> `[K, ...]`."""
    return model.step(x[None, :, None], _as_group(pred), i, noise[None, :, None])[0, :, 0]


def _as_group(tree: Any) -> Any:
    if isinstance(tree, tuple):
        parts = [_as_group(part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree[None, :, None]


def _score(model: Any, reward: Any, x0: Tensor, prompts: list[str], record: Record) -> tuple[Tensor, list[float]]:
    record.decodes += len(x0)
    record.reward_calls += len(x0)
    images = model.decode(x0)
    return images, reward(images, prompts).tolist()


def _first_best(scores: list[float]) -> int:
    return max(range(len(scores)), key=lambda c: (scores[c], -c))


def _prune(value: list[float], left: int) -> list[int]:
    """The beams that stay: in their order where all do, else by descending value, the lower index first of equals."""
    order = list(range(len(value)))
    return order if left >= len(order) else sorted(order, key=lambda k: (-value[k], k))[:left]


def _replace(value: list[float], worst: int, step: int, rng: Any) -> list[int]:
    """DSearch-R: the survivors in ascending order, then as many draws from their softmax as were thrown away."""
    out = sorted(range(len(value)), key=lambda k: (value[k], k))[:worst]
    rest = [k for k in range(len(value)) if k not in out]
    weight = [math.exp(value[k] - max(value)) for k in rest]
    return rest + [rest[_pick(weight, u)] for u in rng.uniform("replace", step, (1, worst))[0].tolist()]


def _pick(weight: list[float], u: float) -> int:
    """The first index whose share of the cumulated weight exceeds u."""
    level = u * math.fsum(weight)
    for k in range(len(weight)):
        if math.fsum(weight[: k + 1]) > level:
            return k
    return max(k for k, each in enumerate(weight) if each > 0)
