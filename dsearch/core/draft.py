"""Drafts: a search on a cheap stand-in of a model, whose best are then drawn in full with the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import potential, selection
from .chunks import Chunks
from .contract import Denoiser, Prediction, Rng
from .grow import Rows
from .loop import search
from .method import Method
from .plan import Bill, Plan, positive
from .result import Cost, Result
from .rng import KeyedRng
from .tuning import rank_correlation
from .value import posterior_mean

__all__ = ["Drafted", "draft", "retraced"]


@dataclass(frozen=True)
class Drafted:
    """What a draft led to.

    Attributes:
        result: the full model's images, best first; its cost is that of both, in rows of the full model.
        draft: the search on the stand-in, whose images are previews.
        drafted: `[B, top]` the draft's rewards of the images of `replayed`.
        replayed: `[B, top]` the full model's, in the order of the draft.
    """

    result: Result
    draft: Result
    drafted: Tensor
    replayed: Tensor

    @property
    def agreement(self) -> Tensor:
        """`[B]` Spearman's rank correlation of both rewards over what was replayed; nan where either are all equal."""
        return rank_correlation(self.drafted, self.replayed)


@torch.no_grad()
def draft(
    denoiser: Denoiser,
    cheap: Denoiser,
    method: Method,
    prompts: str | Sequence[str],
    *,
    top: int = 1,
    keep: int = 1,
    price: float = 1.0,
    seed: int = 0,
    ids: Sequence[Hashable] | None = None,
    chunks: Chunks = Chunks(),  # noqa: B008  # frozen
    progress: bool | Callable[..., Any] = False,
) -> Drafted:
    """Searches with a cheap stand-in of the model and draws its `top` in full (CachedSearch, arXiv 2607.23159).

    The stand-in is a denoiser of the same samples: the same model in fewer steps, a distilled sibling, one with a
    cache. Noise is keyed, so that what won is drawn again with its own noise: where both take as many steps, x_T and
    the noise of each step; else x_T alone, which is all there is to a sampler without noise (eta=0). With the model
    itself as its stand-in, the images are those of the method, bit for bit.

        cheap = StableDiffusion(pipe, num_inference_steps=10, eta=0.0)
        drafted = draft(StableDiffusion(pipe, eta=0.0), cheap, best_of_n(reward, 16), prompts)

    Args:
        denoiser: the model.
        cheap: its stand-in.
        method: any whose candidates are drawn all at once, at steps or in independent rounds.
        prompts: as for `search`.
        top: how many of the draft's survivors are drawn in full, at most those that the method keeps.
        keep: how many of these are returned, best first.
        price: a row of the stand-in, in rows of the model; 1 for the same network in fewer steps.
        seed: as for `search`, likewise `ids`, `chunks` and `progress`.

    Raises:
        ValueError: before anything is spent, for a method whose noise cannot be found again, for stand-ins of other
            samples, and for a `top` above what the method keeps.
    """
    if method.pool or method.expand is not None or method.program is not None:
        raise ValueError(
            f"{method.name} draws candidates one by one or in a pool; a draft needs them drawn all at once"
        )
    if method.rounds is not None and not method.rounds.independent:
        raise ValueError(f"the rounds of {method.name} depend on each other's rewards; a draft needs independent ones")
    if not (price > 0 and math.isfinite(price)):
        raise ValueError(f"price={price} must be above 0 and finite")
    plan = method.plan(cheap.num_steps)
    if plan.route is not None:
        raise ValueError(f"{method.name} goes back in noise; a draft needs a straight descent")
    if positive("top", top) > plan.keep[-1]:
        raise ValueError(f"top={top} exceeds the {plan.keep[-1]} that {method.name} keeps; keep more, or draw fewer")
    if positive("keep", keep) > top:
        raise ValueError(f"keep={keep} exceeds top={top}; draw at least as many as you keep")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    ids = tuple(range(len(prompts))) if ids is None else tuple(ids)
    _refuse_others(denoiser, cheap)
    found = search(cheap, method, prompts, seed=seed, ids=ids, chunks=chunks, progress=progress)
    again = retraced(denoiser, method, plan, found, seed, ids, top)
    whole = search(again, _best(method, top), prompts, seed=seed, ids=ids, chunks=found.chunks, progress=progress)
    order = whole.lineage.order.argsort(dim=-1)
    replayed = whole.rewards.gather(1, order)
    scaled = [Bill(math.ceil(price * b.model_calls), *b[1:]) for b in (found.cost.planned, found.cost.spent)]
    cost = Cost(
        scaled[0].plus(whole.cost.planned), scaled[1].plus(whole.cost.spent), whole.cost.watched, whole.cost.groups
    )
    kept = replace(
        whole,
        images=whole.images[:, :keep],
        rewards=whole.rewards[:, :keep],
        latents=whole.latents[:, :keep],
        prompts=[texts[:keep] for texts in whole.prompts],
        log_w=whole.log_w[:, :keep],
        kl=None,
        lineage=replace(whole.lineage, order=whole.lineage.order[:, :keep]),
        cost=cost,
    )
    return Drafted(kept, found, found.rewards[:, :top], replayed)


def retraced(
    denoiser: Denoiser, method: Method, plan: Plan, found: Result, seed: int, ids: Sequence[Hashable], top: int
) -> Denoiser:
    """The denoiser with the noise that led to the first `top` images of a result, one beam each."""
    path, ancestor = found.lineage.path()[:, :top].tolist(), found.lineage.ancestor()[:, :top].tolist()
    rounds = 1 if method.rounds is None else method.rounds.count
    starts, rows = plan.start // rounds, [n // rounds for n in plan.rows]

    def source(b: int, place: int, of: int) -> Rng:
        """Of a group's candidate at a place among `of` a round."""
        rng: Rng = KeyedRng(seed, (ids[b],))
        if method.rounds is not None:
            drawn = method.rounds.source(rng)
            for _ in range(place // of + 1):
                rng = drawn.next(None)
        parts = rng.parts(of)
        parts.seek(place % of, 1)
        return parts

    groups = range(len(path))
    noise = [[source(b, steps[i], n) for b in groups for steps in path[b]] for i, n in enumerate(rows)]
    start = [source(b, k, starts) for b in groups for k in ancestor[b]]
    if plan.num_steps != denoiser.num_steps:  # of a run of other steps x_T alone
        noise = [start] * denoiser.num_steps
    return _Retraced(denoiser, start, noise)


class _Retraced:
    """A denoiser whose beams meet noise of their own, each from its source."""

    def __init__(self, denoiser: Denoiser, start: list[Rng], noise: list[list[Rng]]) -> None:
        self._denoiser, self._start, self._noise = denoiser, start, noise
        self.num_steps = denoiser.num_steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def encode(self, prompts: list[str]) -> Any:
        return self._denoiser.encode(prompts)

    def start(self, batch_shape: tuple[int, int], rng: Rng) -> Tensor:
        return self._denoiser.start((1, math.prod(batch_shape)), Rows(self._start)).unflatten(1, batch_shape)[0]

    def noise(self, step: int, batch_shape: tuple[int, int, int], rng: Rng) -> Tensor:
        rows = self._denoiser.noise(step, (1, math.prod(batch_shape), 1), Rows(self._noise[step]))
        return rows.unflatten(1, batch_shape[:2])[0]

    def predict(self, x: Tensor, level: int, cond: Any, prompt_index: Tensor) -> Prediction:
        return self._denoiser.predict(x, level, cond, prompt_index)

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        return self._denoiser.step(x, pred, step, noise)

    def decode(self, x0: Tensor) -> Tensor:
        return self._denoiser.decode(x0)


def _best(method: Method, top: int) -> Method:
    """Plain runs, all of them kept: what is to be returned is chosen when both rewards are known."""

    def plan(num_steps: int) -> Plan:
        return Plan(top, (1,) * num_steps, (top,) * num_steps, (False,) * num_steps)

    return Method(plan, method.reward, posterior_mean, potential.none, selection.top_k(), name=f"{method.name} in full")


def _refuse_others(denoiser: Denoiser, cheap: Denoiser) -> None:
    """Raises a ValueError where the two start from samples of different shapes."""
    shapes = [tuple(model.start((1, 1), KeyedRng(0, (0,))).shape[2:]) for model in (denoiser, cheap)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the stand-in starts from samples {shapes[1]}, the model from {shapes[0]}, so that noise of one is none "
            "of the other; draft with the same size"
        )
