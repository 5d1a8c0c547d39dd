"""Several rewards as one that is harder to fool: their mean, least or ranks, or their mean less their doubt."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from statistics import fmean, stdev
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dsearch.core.contract import Reward
from dsearch.core.plan import one_of
from dsearch.core.rng import move
from dsearch.rewards._inputs import asked, check_prompts
from dsearch.rewards.compressibility import Compressibility

__all__ = ["Ensemble", "ensemble"]

How = Literal["mean", "min", "rank", "uncertainty"]
"""What an ensemble makes of its members' scores."""

Reference: TypeAlias = tuple[Tensor, Sequence[str]] | Sequence[Sequence[float]]
"""Pictures `[R, 3, H, W]` and their prompts, or what each member says of such, R scores each."""

AT_ONCE = 16
"""Reference pictures that a member is asked about together."""


@dataclass(frozen=True)
class Ensemble:
    """Rewards that are asked together; `ensemble(members, how)` makes one.

    Attributes:
        members: at least two rewards.
        how: what is made of their scores.
        penalty: of a standard deviation among members, in "uncertainty".
        reference: what each member says of the reference pictures; empty where members keep their own units.
    """

    members: tuple[Reward, ...]
    how: How
    penalty: float
    reference: tuple[tuple[float, ...], ...]

    @property
    def on_host(self) -> bool:
        """Whether the reward works beside an accelerator: where all members do."""
        return all(getattr(member, "on_host", False) for member in self.members)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """What the members say together, `[N]`; a picture that one of them rejects (-inf) is rejected.

        Raises:
            ValueError: where a member gives not one number per image.
        """
        each = self.each(images, prompts)
        rejected = (each == -torch.inf).any(dim=0)
        if self.how == "min":
            said = each.amin(dim=0)
        else:
            said = each.mean(dim=0)
            if self.how == "uncertainty":
                said = said - self.penalty * each.std(dim=0, correction=0)
        return said.masked_fill(rejected, -torch.inf)

    def each(self, images: Tensor, prompts: list[str]) -> Tensor:
        """What the M members say, `[M, N]`, on the scale on which they are put together."""
        check_prompts(images, prompts)
        said = [asked(member, images, prompts) for member in self.members]
        said = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in said]
        if self.reference:
            scaled = _rank if self.how == "rank" else _standardised
            said = [scaled(one, scores) for one, scores in zip(said, self.reference, strict=True)]
        return torch.stack(said)


def ensemble(
    members: Sequence[Reward], how: How = "mean", *, reference: Reference | None = None, penalty: float = 1.0
) -> Ensemble:
    """One reward of several, against over-optimisation (Coste et al. 2023, arXiv 2310.02743).

    With r_1 ... r_M what the members say of a picture: "mean" is their mean; "min" the least of them (worst-case
    optimisation there); "uncertainty" is mean - penalty * std, their standard deviation over M (there, weighted by the
    variance); "rank" is the mean of their ranks among the reference pictures.

    A row's score must not depend on its batch-mates, so ranks are not those within a batch but among fixed pictures:
    the share of them that the member likes less, half of those that it likes as much. Between two of their scores a
    rank is interpolated, and beyond the last ones it goes on towards 0 and 1, so that better is always above. Shifting
    a member or scaling it by a positive number changes no rank.

    Args:
        members: at least two rewards.
        how: what is made of what they say.
        reference: pictures `[R, 3, H, W]` and their prompts, plain samples for instance, of which each member is asked
            once, now; or what each of them says of such pictures, R numbers each. Where it is given, "mean", "min" and
            "uncertainty" are of (r - mean) / std, and else of the members' own units, which must then be alike.
        penalty: of "uncertainty".

    Raises:
        ValueError: for fewer than two members, another `how`, a negative penalty, ranks without a reference, or a
            reference that does not have two different scores for each member.
    """
    one_of("how", how, How)
    if len(members) < 2:
        raise ValueError(f"an ensemble of {len(members)} members; give 2 or more")
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"penalty={penalty} must be 0 or above, and finite")
    if how == "rank" and reference is None:
        raise ValueError("ranks within a batch would depend on batch-mates; give reference=(images, prompts)")
    scores = () if reference is None else _scores(tuple(members), reference)
    for member, own in zip(members, scores, strict=False):
        if len(set(own)) < 2:
            name = getattr(member, "__name__", type(member).__name__)
            raise ValueError(f"{name} scores the {len(own)} reference pictures alike; give some that differ")
    return Ensemble(tuple(members), how, float(penalty), scores)


def _scores(members: tuple[Reward, ...], reference: Reference) -> tuple[tuple[float, ...], ...]:
    """What each member says of the reference pictures, in order from the least."""
    if isinstance(reference, tuple) and isinstance(reference[0], Tensor):
        images, prompts = reference[0], [str(prompt) for prompt in reference[1]]
        check_prompts(images, prompts)
        parts = [slice(i, i + AT_ONCE) for i in range(0, len(images), AT_ONCE)]
        said = [torch.cat([asked(m, images[rows], prompts[rows]).float() for rows in parts]).tolist() for m in members]
    else:
        said = [[float(score) for score in own] for own in reference]
    if len(said) != len(members) or not all(map(_finite, said)):
        raise ValueError(
            f"a reference of {[len(own) for own in said]} scores for {len(members)} members; give each finite ones"
        )
    return tuple(tuple(sorted(own)) for own in said)


def _finite(scores: Sequence[float]) -> bool:
    return all(abs(score) < float("inf") for score in scores)


def _standardised(said: Tensor, scores: Sequence[float]) -> Tensor:
    return (said - fmean(scores)) / stdev(scores)


def _rank(said: Tensor, scores: Sequence[float]) -> Tensor:
    """`[N]` -> `[N]` in [0, 1]: the share of the reference scores below, interpolated, rising beyond them; or -inf."""
    spread, ties = stdev(scores), [(score, len(list(same))) for score, same in groupby(scores)]
    below = accumulate((count for _, count in ties), initial=0)
    table = [
        [score for score, _ in ties],
        [(n + count / 2) / len(scores) for n, (_, count) in zip(below, ties, strict=False)],
    ]
    knots, heights = move(torch.tensor(table, dtype=said.dtype, device="cpu"), said.device).contiguous()
    above = torch.searchsorted(knots, said.contiguous()).clamp(1, len(knots) - 1)
    low, high = knots[above - 1], knots[above]
    inside = torch.lerp(heights[above - 1], heights[above], ((said - low) / (high - low)).clamp(0, 1))
    # h s / (s + d) at distance d beyond the ends: from h at the last score down to 0, and likewise up to 1.
    under = heights[0] * spread / (spread + (knots[0] - said).clamp(min=0))
    over = 1 - (1 - heights[-1]) * spread / (spread + (said - knots[-1]).clamp(min=0))
    rank = torch.where(said < knots[0], under, torch.where(said > knots[-1], over, inside))
    return rank.masked_fill(said == -torch.inf, -torch.inf)


def example() -> Ensemble:
    """A cheap instance for the law suite."""
    members = [Compressibility(workers=1), Compressibility(quality=50, workers=1)]
    return ensemble(members, "rank", reference=[[-9.0, -5.0, -3.0, -1.0], [-4.0, -2.0, -2.0, -0.5]])
