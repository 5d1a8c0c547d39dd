"""Toy diffusions with exact answers: the test oracle, and the fastest example."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..core.contract import Prediction, Rng
from ..core.plan import positive
from ..core.rng import move

__all__ = ["GaussianMixture"]


class GaussianMixture:
    """A diffusion of a mixture of isotropic Gaussians, whose kernel and posterior mean are known in closed form.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps with a_i = sin^2(pi i / 2T) at step i, so that step 0 is exactly N(0, I)
    and step T exactly x_0. The reverse kernel is the true one, p(x_{t-1} | x_t), not its Gaussian approximation:
    plain sampling gives the mixture itself at any number of steps. Samples are float32 `[..., D]` and `decode` hands
    them on as they are.

    Args:
        means: `[M, D]` of the components.
        std: of each component, `[M]` or one for all.
        weights: `[M]` of the components, equal by default.
        num_steps: T.
        shift: what a prompt adds to all means, by prompt; 0 for the others.
        device: where the samples live.

    Raises:
        ValueError: for shapes that do not fit, a std or weights that are not above 0.
    """

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]] = ((0.0,),),
        std: float | Sequence[float] = 1.0,
        weights: Sequence[float] | None = None,
        *,
        num_steps: int = 10,
        shift: Mapping[str, float] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        # float64 within, so that what is rounded to float32 does not depend on how rows are batched.
        self.means = torch.as_tensor(means, dtype=torch.float64, device=device)
        if self.means.ndim != 2:
            raise ValueError(f"means has shape {tuple(self.means.shape)}; give [components, dimensions]")
        parts = len(self.means)
        self.std = torch.as_tensor(std, dtype=torch.float64, device=device)
        weights = [1.0] * parts if weights is None else weights
        self.weights = torch.as_tensor(weights, dtype=torch.float64, device=device)
        if self.weights.shape != (parts,) or self.std.shape not in ((), (parts,)):
            raise ValueError(
                f"{parts} components need as many weights and one std or as many, "
                f"not weights of shape {tuple(self.weights.shape)} and std of shape {tuple(self.std.shape)}"
            )
        if not (self.weights > 0).all() or not (self.std > 0).all():
            raise ValueError(f"weights={self.weights.tolist()} and std={self.std.tolist()} must be above 0")
        self.std, self.weights = self.std.expand(parts), self.weights / self.weights.sum()
        self.num_steps = positive("num_steps", num_steps)
        self.shift = dict(shift or {})
        self.alpha = [math.sin(math.pi / 2 * i / num_steps) ** 2 for i in range(num_steps)] + [1.0]

    def encode(self, prompts: list[str]) -> Tensor:
        """Prompts -> their shifts `[P]`."""
        shifts = [float(self.shift.get(prompt, 0.0)) for prompt in prompts]
        return torch.tensor(shifts, dtype=torch.float64, device=self.means.device)

    def start(self, lead: tuple[int, int], rng: Rng) -> Tensor:
        """N(0, I), `[B, K, D]`."""
        return move(rng.normal("start", 0, (*lead, self.means.shape[1])), self.means.device)

    def noise(self, step: int, lead: tuple[int, int, int], rng: Rng) -> Tensor:
        """`[B, K, w, D + 1]` normals: D to move, one to pick the component."""
        return move(rng.normal("noise", step, (*lead, self.means.shape[1] + 1)), self.means.device)

    def predict(self, x: Tensor, step: int, cond: Tensor, prompt: Tensor) -> Prediction:
        """`[R, D]` -> the components' posteriors and means as `out` (`[R, M]`, `[R]`), and E[x_0 | x_t] as `x0`."""
        if step == self.num_steps:
            return Prediction(None, x)
        a, shift = self.alpha[step], cond[prompt]
        offset = x.double()[:, None] - math.sqrt(a) * (self.means + shift[:, None, None])  # [R, M, D]
        var = a * self.std**2 + 1 - a
        log_p = self.weights.log() - 0.5 * offset.square().sum(-1) / var - 0.5 * x.shape[-1] * var.log()
        p = log_p.softmax(-1)
        x0 = self.means + shift[:, None, None] + (math.sqrt(a) * self.std**2 / var)[:, None] * offset
        return Prediction((p, shift), (p[..., None] * x0).sum(-2).float())

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """The exact p(x_{t-1} | x_t): a component by its posterior, then that component's Gaussian."""
        p, shift = pred.out
        a, after = self.alpha[step], self.alpha[step + 1]
        u = torch.special.ndtr(noise[..., -1].double())
        part = (p.cumsum(-1)[..., :-1] < u[..., None]).sum(-1)  # [B, K, w]
        mean, std = self.means[part] + shift[..., None], self.std[part][..., None]
        var, var_after = a * std**2 + 1 - a, after * std**2 + 1 - after
        gain = math.sqrt(a / after) * var_after / var
        centre = math.sqrt(after) * mean + gain * (x.double() - math.sqrt(a) * mean)
        spread = (var_after * (1 - a / after) / var).sqrt()
        return (centre + spread * noise[..., :-1].double()).float()

    def deterministic(self, x: Tensor, pred: Prediction, step: int) -> Tensor:
        """The DDIM step with eta 0, x' = sqrt(a') x0 + sqrt(1 - a') eps (Song et al. 2021)."""
        a, after = self.alpha[step], self.alpha[step + 1]
        eps = (x.double() - math.sqrt(a) * pred.x0) / math.sqrt(1 - a)
        return (math.sqrt(after) * pred.x0 + math.sqrt(1 - after) * eps).float()

    def decode(self, x0: Tensor) -> Tensor:
        """The samples themselves."""
        return x0


def example() -> GaussianMixture:
    """A small instance for the law suite: two modes in the plane, prompts that move them."""
    return GaussianMixture([[-2.0, 0.0], [1.0, 1.5]], std=0.5, num_steps=6, shift={"a": 0.5, "b": -1.0})
