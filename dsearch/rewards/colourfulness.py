"""How colourful a picture is (Hasler and Süsstrunk 2003, Measuring colourfulness in natural images)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsearch.rewards._inputs import check_images, check_prompts

__all__ = ["Colourfulness"]


class Colourfulness:
    """The M3 of their paper: images `[N, 3, H, W]` in [0, 1], prompts (unread) -> `[N]` from 0 (grey) to about 190.

    With rg = R - G and yb = (R + G) / 2 - B in levels of 255, sqrt(var rg + var yb) + 0.3 sqrt(mean rg^2 + mean yb^2).
    People call pictures "moderately colourful" at about 33 and "highly" at 82. It needs no weights, and stands in where
    a learned aesthetic score is not at hand.
    """

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` -> their colourfulness `[N]`."""
        check_prompts(images, prompts)
        check_images(images, wait=False)
        red, green, blue = (255 * images.detach().float()).flatten(2).unbind(1)
        opponents = torch.stack([red - green, (red + green) / 2 - blue])  # [2, N, H W]
        spread = opponents.var(dim=-1, correction=0).sum(dim=0).sqrt()
        return spread + 0.3 * opponents.mean(dim=-1).square().sum(dim=0).sqrt()


def example() -> Colourfulness:
    """A cheap instance for the law suite."""
    return Colourfulness()
