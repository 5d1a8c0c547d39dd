"""Values: estimates of the reward that a candidate will end with."""

from __future__ import annotations

from torch import Tensor

from .contract import Beams
from .engine import Engine
from .plan import Bill

__all__ = ["PosteriorMean", "posterior_mean"]


class PosteriorMean:
    """v(x_t) = r(x0_hat(x_t)): the reward of the posterior mean (SVDD-PM, Li et al. 2024, arXiv 2408.08252).

    The prediction is at hand, so a candidate costs one decode and one reward.
    """

    def __call__(self, children: Beams, step: int, engine: Engine) -> Tensor:
        """Candidates `[B, N, ...]` -> `[B, N]`."""
        return engine.reward(children.pred.x0, children.prompt, step)

    def cost(self, step: int, num_steps: int) -> Bill:
        """One decode and one reward."""
        return Bill(0, 1, 1)


posterior_mean = PosteriorMean()
