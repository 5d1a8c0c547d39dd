"""Intervals of what seeds and prompts say: means, differences, and statistics of several images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from .._optional import optional
from .metrics import Interval, interval
from .scores import Pairs

T = TypeVar("T")


class Estimate(NamedTuple):
    """A mean over seeds and prompts, and how far it is above the baseline's.

    Attributes:
        own: the mean and its interval over seeds; its ends are nan where there are too few.
        above: the paired difference from the baseline, over seeds; None where nothing pairs, or for the baseline.
        beyond: the same difference, over prompts; None where prompts are no samples.
        rejected: share of the rewards that are not finite, which the mean leaves out.
        pairs: how often it is better than the baseline, rejections counted; None where nothing pairs.
    """

    own: Interval
    above: Interval | None = None
    beyond: Interval | None = None
    rejected: float = 0.0
    pairs: Pairs | None = None


def over_seeds(cells: Tensor, pooled: bool = False) -> Interval | None:
    """`[S, P]` numbers by seed and prompt, nan where there is none -> their mean and its 95% interval on these prompts.

    A search's noise is keyed by its seed and its prompt, and prompts never mix, so all S P cells are independent. A
    prompt's mean m_p has the variance v_p = s_p^2 / n_p of its n_p seeds; the mean of the means has sum v_p / P^2, with
    (sum v_p)^2 / sum(v_p^2 / (n_p - 1)) degrees of freedom (Satterthwaite 1946): Student's own interval for one prompt,
    Welch's for two. It covers as often as the interval of S means over the prompts, but does not waste what the prompts
    say of the noise: with 2 seeds that one has a single degree of freedom. How prompts differ from one another is not
    in it: it speaks of these prompts.

    A prompt with a single seed is in the mean, and its variance is taken to be the others' pooled one,
    sum (n_p - 1) s_p^2 / sum (n_p - 1): with m such prompts, 1 / n_p + m (n_p - 1) / sum (n_q - 1) stands for 1 / n_p.

    Args:
        cells: float64; for differences, of two methods at the same seeds and prompts.
        pooled: the prompts of a seed compete in one pool, so that only the seeds' means are independent.

    Returns:
        None where no prompt has 2 seeds.
    """
    with optional():
        from scipy.stats import t

    if pooled:
        cells = cells.nanmean(dim=1, keepdim=True)
    n = (~cells.isnan()).sum(dim=0)
    cells, n = cells[:, n > 0], n[n > 0]
    if not (n >= 2).any():
        return None
    means, alone = cells.nanmean(dim=0), n == 1
    more = (n - 1).clamp(min=1)
    each = 1 / n + alone.sum() * more / more[~alone].sum()
    v = ((cells - means).square().nansum(dim=0) / more * each)[~alone]
    mean, total, half = float(means.mean()), float(v.sum()), 0.0
    if total > 0:
        freedom = total**2 / float((v**2 / more[~alone]).sum())
        half = float(t.ppf(0.975, freedom)) * total**0.5 / len(n)
    return Interval(mean, mean - half, mean + half)


def over_prompts(cells: Tensor) -> Interval | None:
    """`[S, P]` numbers by seed and prompt -> their mean and its 95% t interval with the P prompts as the samples.

    What the seeds leave uncertain is in the prompts' means, so this covers both: it speaks of prompts like these.

    Returns:
        None for fewer than 2 prompts.
    """
    means = cells[:, (~cells.isnan()).any(dim=0)].nanmean(dim=0)
    return interval(means) if len(means) >= 2 else None


def jackknife(items: Sequence[T], statistic: Callable[[Sequence[T]], float]) -> Tensor:
    """n independent items -> `[n]` pseudo-values n theta - (n - 1) theta_without_i (Tukey 1958).

    Their spread is that of the statistic, as a mean's is that of its samples; of a mean they are the samples.
    """
    n, whole = len(items), statistic(items)
    without = [statistic([*items[:i], *items[i + 1 :]]) for i in range(n)]
    return torch.tensor([n * whole - (n - 1) * part for part in without], dtype=torch.float64, device="cpu")


def around(whole: Tensor, pseudo: Sequence[Tensor]) -> Interval:
    """A statistic of each prompt `[P]` and its pseudo-values -> the mean over prompts, in an interval over seeds.

    The interval's ends are nan where no prompt has pseudo-values.
    """
    cells = (
        torch.nn.utils.rnn.pad_sequence(list(pseudo), padding_value=nan) if pseudo else torch.empty(0, 0, device="cpu")
    )
    spread, mean = over_seeds(cells), float(whole.mean())
    half = nan if spread is None else spread.high - spread.mean
    return Interval(mean, mean - half, mean + half)
