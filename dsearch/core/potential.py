"""Potentials: how values become importance weights."""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import Memory, Scores

__all__ = ["NoPotential", "none"]


class NoPotential:
    """Weights stay as they are: search, not sampling."""

    def initial(self, lead: tuple[int, int], device: torch.device) -> Memory:
        """Nothing to remember."""
        return None

    def __call__(self, scores: Scores) -> tuple[Tensor, Memory]:
        """A zero increment `[B, N]`."""
        return torch.zeros_like(scores.log_w), None


none = NoPotential()
