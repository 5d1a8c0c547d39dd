"""A toy flow: the network is exact, so that what its samples miss is the sampler's doing alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.contract import Prediction, Rng, precise
from ..core.rng import move
from ._noise import noise_of
from .toy import GaussianMixture

__all__ = ["FlowMixture"]


class FlowMixture(GaussianMixture):
    """The mixture along a rectified flow, x_s = (1 - s) x_0 + s eps, stepped with the noise of flow models.

    s falls from 1 to 0 in even steps, shifted as schedulers do: s -> f s / (1 + (f - 1) s). Unlike `GaussianMixture` it
    takes the steps that flow models take, whose samples are the mixture's only as steps grow many (of `cps` and `full`
    not even then). `log_prob`, `value` and the other closed forms are exact at every level.

    Args:
        *args: of `GaussianMixture`.
        noise: `posterior`, `cps`, `flow-sde`, `dance` or `full`.
        eta: its strength, by default that of its source; at 0 all children are equal.
        flow_shift: f.
        **kwargs: of `GaussianMixture`.

    Raises:
        ValueError: as `GaussianMixture`, and for a noise or eta that cannot be.
    """

    def __init__(
        self, *args: Any, noise: str = "posterior", eta: float | None = None, flow_shift: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if not 0 < flow_shift < float("inf"):
            raise ValueError(f"flow_shift={flow_shift} must be above 0 and finite")
        self._noise, self.flow_shift = noise_of(noise, eta), flow_shift
        even = [1 - i / self.num_steps for i in range(self.num_steps + 1)]
        self.sigmas = [flow_shift * s / (1 + (flow_shift - 1) * s) for s in even]

    def noise(self, step: int, batch_shape: tuple[int, int, int], rng: Rng) -> Tensor:
        """`[B, K, w, D]` normals."""
        return move(rng.normal("noise", step, (*batch_shape, self.means.shape[1])), self.means.device)

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """To (1 - s') x0 + keep eps + draw noise, with the eps that x and x0 say; x0 itself at the end."""
        s, to = self.sigmas[step : step + 2]
        return self._moved(x, pred, step, noise, *self._noise.split(s, to, self.sigmas[1]))

    def deterministic(self, x: Tensor, pred: Prediction, step: int) -> Tensor:
        """The flow's own Euler step."""
        return self._moved(x, pred, step, torch.zeros_like(x), self.sigmas[step + 1], 0.0)

    def _moved(self, x: Tensor, pred: Prediction, step: int, noise: Tensor, keep: float, draw: float) -> Tensor:
        s, to = self.sigmas[step : step + 2]
        mean = precise(pred.x0)
        eps = (precise(x) - (1 - s) * mean) / s
        return ((1 - to) * mean + keep * eps + draw * precise(noise)).float()

    def _path(self, level: int) -> tuple[float, float, float]:
        s = self.sigmas[level]
        return 1 - s, (1 - s) ** 2, s**2

    def _like(self, means: Tensor, std: list[float], weights: list[float]) -> FlowMixture:
        return FlowMixture(
            means,
            std,
            weights,
            num_steps=self.num_steps,
            device=self.means.device,
            noise=self._noise.kind,
            eta=self._noise.eta,
            flow_shift=self.flow_shift,
        )


def example() -> FlowMixture:
    """A small instance for the law suite: two modes in the plane, prompts that move them."""
    return FlowMixture([[-2.0, 0.0], [1.0, 1.5]], std=0.5, num_steps=6, shift={"a": 0.5, "b": -1.0})
