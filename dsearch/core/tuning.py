"""Where a search should spend its rows: gains measured in a pilot run, and the widths that make most of them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .chunks import Chunks
from .contract import Denoiser, Reward
from .loop import search
from .method import Method, Value
from .plan import Plan, positive
from .potential import none
from .selection import top_k
from .value import posterior_mean

__all__ = ["Pilot", "allocate", "expected_best", "pilot", "rank_correlation"]


@dataclass(frozen=True)
class Pilot:
    """Plain samples whose values were looked at after every step.

    Attributes:
        values: `[B, N, T]` of N samples of each of B prompts after each step, the final rewards last.
    """

    values: Tensor

    @property
    def rank_correlation(self) -> list[float]:
        """`[T]` Spearman's correlation of the value after each step with the final reward, mean over the prompts.

        Equal values share the mean of their ranks. nan where all values, or all rewards, of a prompt are equal.
        """
        ranks = _ranks(self.values)
        return _mean_over_prompts(_cosine(_centred(ranks), _centred(ranks)[..., -1:]))

    @property
    def gain(self) -> list[float]:
        """`[T - 1]` what one standard deviation among siblings is worth in final reward, for each step but the last.

        It is the covariance of the final reward with the part of a value that its parent's value does not explain,
        over that part's standard deviation: a martingale increment, pooled over the prompts, smoothed over three steps
        and at least 0. Choosing the best of w children at step t then gains gain[t] E[max of w normals].

        Raises:
            ValueError: where a value is infinite.
        """
        if not self.values.isfinite().all():
            raise ValueError("a pilot with infinite values has no covariances; give it a reward that is finite")
        values = _centred(self.values.double()).flatten(0, 1)  # [B N, T]
        before = torch.cat([torch.zeros_like(values[:, :1]), values[:, :-1]], dim=1)
        slope = (values * before).sum(0) / before.square().sum(0).clamp(min=torch.finfo(values.dtype).tiny)
        fresh = values - slope * before
        spread = fresh.square().mean(0).sqrt().clamp(min=torch.finfo(values.dtype).tiny)
        raw = ((fresh * values[:, -1:]).mean(0) / spread)[:-1]
        padded = torch.cat([raw[:1], raw, raw[-1:]])
        return (0.25 * padded[:-2] + 0.5 * raw + 0.25 * padded[2:]).clamp(min=0).tolist()


def pilot(
    denoiser: Denoiser,
    reward: Reward,
    prompts: Sequence[str],
    samples: int = 16,
    *,
    seed: int = 10_000,
    value: Value = posterior_mean,
    chunks: Chunks = Chunks(),  # noqa: B008  # frozen
) -> Pilot:
    """Samples every prompt plainly and values every step of it, to see how early a value tells the final reward.

    It costs `samples * T` rows, decodes and rewards per prompt, once for a model, a reward and a number of steps.

    Args:
        denoiser: the model.
        reward: what will be searched for.
        prompts: like those of the search.
        samples: of each prompt, at least 3.
        seed: apart from the search's.
        value: that of the search.
        chunks: rows at once, as in `search`.
    """
    positive("samples", samples, at_least=3)

    def plan(num_steps: int) -> Plan:
        return Plan(samples, (1,) * num_steps, (samples,) * num_steps, (True,) * num_steps)

    method = Method(plan, reward, value, none, top_k(), name="pilot")
    result = search(denoiser, method, prompts, seed=seed, chunks=chunks)
    return Pilot(torch.stack([step.values for step in result.trace if step.values is not None], dim=-1).cpu())


def allocate(gain: Sequence[float], rows: int) -> tuple[int, ...]:
    """Children at each step, `rows` in all, for the largest sum of gain[t] E[max of width[t] normals].

    The sum is concave in the widths, so that giving row after row to the step where it adds most is exact.

    Raises:
        ValueError: where there are fewer rows than steps, a gain that is negative or not finite, or no gain anywhere.
    """
    if rows < len(gain):
        raise ValueError(f"rows={rows} are fewer than {len(gain)} steps; a step takes at least one")
    if not all(0 <= g < math.inf for g in gain) or (len(gain) and not any(gain)):
        raise ValueError(f"gain={list(gain)} must be at least 0 and not 0 throughout, and finite")
    width = [1] * len(gain)
    queue = [(-g * (expected_best(2) - expected_best(1)), t) for t, g in enumerate(gain)]
    heapq.heapify(queue)
    for _ in range(rows - len(gain) if queue else 0):
        _, t = queue[0]
        width[t] += 1
        heapq.heapreplace(queue, (-gain[t] * (expected_best(width[t] + 1) - expected_best(width[t])), t))
    return tuple(width)


@cache
def expected_best(n: int) -> float:
    """E[max of n standard normals], by quadrature: 0, 0.564, 0.846, 1.029, ..."""
    x = torch.linspace(0.0, 9.0, 2001, dtype=torch.float64, device="cpu")
    # E[max] as the integral over x > 0 of P(max > x) - P(max <= -x).
    return float(torch.trapezoid(1 - torch.special.ndtr(x) ** n - torch.special.ndtr(-x) ** n, x))


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's correlation over the N of `[B, N]` and `[B, N]`, `[B]`; nan where either's are all equal."""
    a, b = (_centred(_ranks(side[..., None])) for side in (one, other))
    return _cosine(a, b)[:, 0]


def _ranks(values: Tensor) -> Tensor:
    """`[B, N, T]` -> the ranks among the N, float64; equal values share the mean of theirs."""
    by_sample = values.double().transpose(1, 2).contiguous()  # searchsorted reads the last axis
    ascending = by_sample.sort(dim=-1).values
    below = torch.searchsorted(ascending, by_sample)
    up_to = torch.searchsorted(ascending, by_sample, right=True)
    return ((below + up_to - 1) / 2).double().transpose(1, 2)


def _centred(values: Tensor) -> Tensor:
    """`[B, N, ...]` less the mean of each prompt."""
    return values - values.mean(dim=1, keepdim=True)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """`[B, N, T]` and `[B, N, 1]`, centred -> their correlation `[B, T]`."""
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()


def _mean_over_prompts(values: Tensor) -> list[float]:
    return values.mean(dim=0).tolist()
