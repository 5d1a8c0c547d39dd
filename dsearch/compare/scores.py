"""Final rewards by seed and prompt, the rejected ones counted: an image may be worth nothing, and is never left out.

A reward that is not finite (-inf) rejects its image. A mean can only be taken over the others, so it rises when bad
images are rejected rather than scored; the share of rejections stands beside it, and nothing is ordered or claimed by
the mean alone. A place z = (seed, prompt) is the pair of its rejected share q and its finite mean m, and

    z is better than z'  <=>  q < q', or q = q' and m > m',

so that a rejection is worse than any finite reward, whatever that is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._optional import optional
from .metrics import Interval


class Scores(NamedTuple):
    """What a reward says of the images that count, S seeds by P prompts, float64.

    Attributes:
        mean: `[S, P]` over the images of a place that were not rejected; nan where there is none.
        rejected: `[S, P]` share of the images of a place that were; nan where there is no image.
    """

    mean: Tensor
    rejected: Tensor

    @property
    def rate(self) -> float:
        """The share that was rejected, over all places; nan where there is none."""
        return float(self.rejected.nanmean())

    def by_seed(self) -> Scores:
        """`[S, 1]`: all prompts of a seed as one place, for those that compete in one pool."""
        return Scores(*(part.nanmean(dim=1, keepdim=True) for part in self))


class Pairs(NamedTuple):
    """How often one method was better than another at the same seed and prompt.

    Attributes:
        better, worse, alike: pairs, by the order above.
        rejected: of them, those in which either side rejected an image.
    """

    better: int
    worse: int
    alike: int
    rejected: int

    @property
    def share(self) -> Interval:
        """better / (better + worse) and its 95% interval (Clopper and Pearson 1934).

        Pairs are independent but not alike; a sum of such trials varies no more than a binomial (Hoeffding 1956), so it
        covers at least as often. [0, 1] around nan where no pair differs.
        """
        with optional():
            from scipy.stats import binomtest

        if not (n := self.better + self.worse):
            return Interval(float("nan"), 0.0, 1.0)
        ends = binomtest(self.better, n).proportion_ci(0.95, method="exact")
        return Interval(self.better / n, float(ends.low), float(ends.high))

    @property
    def is_clear(self) -> bool:
        """Whether one side is better more often than the other: 1/2 lies outside the share's interval."""
        _, low, high = self.share
        return low > 0.5 or high < 0.5


def paired_off(ours: Scores, theirs: Scores, pooled: bool = False) -> Pairs | None:
    """Scores at the same seeds and prompts -> how often ours were better; None where no place is there twice.

    Args:
        pooled: prompts of a seed compete in one pool: a seed is one pair.
    """
    if pooled:
        ours, theirs = ours.by_seed(), theirs.by_seed()
    fewer = theirs.rejected - ours.rejected
    both = ~fewer.isnan()
    if not both.any():
        return None
    sign = torch.where(fewer == 0, (ours.mean - theirs.mean).nan_to_num(0.0), fewer)[both].sign()
    rejected = (ours.rejected + theirs.rejected)[both] > 0
    better, worse, alike = (int((sign == s).sum()) for s in (1, -1, 0))
    return Pairs(better, worse, alike, int(rejected.sum()))
