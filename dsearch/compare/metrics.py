"""Numbers about results: intervals over seeds, paired differences, diversity.

Hold them against each other: a search that raises its objective while the panel and the diversity fall has found the
objective's blind spot, not a better picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._optional import optional
from ..core.contract import precise
from ..core.plan import positive

__all__ = ["Interval", "bootstrap", "diversity", "interval", "paired", "vendi"]


class Interval(NamedTuple):
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def interval(samples: Tensor) -> Interval:
    """Independent samples `[S]`, S at least 2 -> their mean and its 95% Student t interval.

    Raises:
        ValueError: for fewer than 2 samples, which have no interval.
    """
    with optional():
        from scipy.stats import t

    samples = _checked(samples)
    n, mean = len(samples), float(samples.mean())
    half = float(t.ppf(0.975, n - 1) * samples.std() / n**0.5)
    return Interval(mean, mean - half, mean + half)


def paired(ours: Tensor, theirs: Tensor) -> Interval:
    """Samples `[S]` of two methods that share seeds and prompts -> the mean of ours - theirs and its 95% t interval.

    Sharing takes out what seeds and prompts have in common, so that differences show which intervals of their own hide.

    Raises:
        ValueError: for samples that do not pair.
    """
    if ours.shape != theirs.shape:
        raise ValueError(
            f"samples of shapes {tuple(ours.shape)} and {tuple(theirs.shape)} do not pair; share the seeds"
        )
    return interval(ours.cpu().double() - theirs.cpu().double())


def bootstrap(
    samples: Tensor, statistic: Callable[[Tensor], Tensor] | None = None, draws: int = 2000, seed: int = 0
) -> Interval:
    """Samples `[S, ...]` -> a statistic of them (the mean by default) and its 95% percentile bootstrap interval.

    For statistics whose law is not known: medians, diversities, correlations.

    Args:
        samples: independent along the first axis.
        statistic: `[n, S, ...]` -> `[n]`, of n resampled sets at once.
        draws: resampled sets.
        seed: of the resampling.
    """
    samples = _checked(samples)
    positive("draws", draws)

    def mean(sets: Tensor) -> Tensor:
        return sets.flatten(1).mean(dim=1)

    of = mean if statistic is None else statistic
    pick = torch.randint(
        len(samples), (draws, len(samples)), device="cpu", generator=torch.Generator("cpu").manual_seed(seed)
    )
    low, high = (
        of(samples[pick]).double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")).tolist()
    )
    return Interval(float(of(samples[None])[0]), low, high)


def diversity(embeddings: Tensor) -> Tensor:
    """Embeddings `[..., K, D]` of K images -> `[...]` their mean pairwise 1 - cosine, 0 where all are alike.

    Of a prompt's images with `[B, K, D]`, over all with `[1, B K, D]`. `CLIPScore.image_embeddings` makes them.

    Raises:
        ValueError: for fewer than 2 images.
    """
    k = embeddings.shape[-2]
    if k < 2:
        raise ValueError(f"{k} image has no pairs; diversity takes 2 or more")
    e = torch.nn.functional.normalize(precise(embeddings), dim=-1)
    cosine = e @ e.transpose(-1, -2)
    return 1 - (cosine.sum(dim=(-2, -1)) - cosine.diagonal(dim1=-2, dim2=-1).sum(dim=-1)) / (k * (k - 1))


def vendi(embeddings: Tensor) -> Tensor:
    """Embeddings `[..., K, D]` of K images -> `[...]` their Vendi score: how many different ones there are, in [1, K].

    exp of the entropy -sum l log l of the eigenvalues l of the matrix of cosines over K (Friedman and Dieng 2022, arXiv
    2210.02410): 1 where all images are alike, K where all are orthogonal.

    Raises:
        ValueError: for no images.
    """
    k = embeddings.shape[-2]
    if k < 1:
        raise ValueError("the Vendi score takes 1 image or more")
    e = torch.nn.functional.normalize(precise(embeddings), dim=-1)
    eigenvalues = torch.linalg.eigvalsh(e @ e.transpose(-1, -2) / k).clamp(min=0)
    return torch.exp(-torch.xlogy(eigenvalues, eigenvalues).sum(dim=-1))


def _checked(samples: Tensor) -> Tensor:
    samples = samples.detach().cpu().double()
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} sample has no interval; run 2 seeds or more")
    return samples
